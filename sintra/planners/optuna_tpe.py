"""Optuna's tree-structured Parzen estimator over the groups' types, asked and told round by round.

Choices that break a limit are repaired before they are measured; what is told is the repaired mix. The study is made anew from
the history each time, so that nothing but recorded rounds decides. Needs the extra sintra[optuna].
"""

from __future__ import annotations

import random

from sintra.allocation.recipes import Plan, mix_of, spent
from sintra.allocation.repair import repaired
from sintra.allocation.surrogate import Space
from sintra.errors import UserError
from sintra.planning import History
from sintra.types import Proposal, Study

BATCH = 2


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""
    plan = Plan.of(study)
    if not history.tried:
        return plan.files() + plan.curve()
    plan = plan.made(history)
    done = int(spent(history))
    left = min(BATCH, plan.evaluations - done)
    if history.sizes is None or len(plan.types) < 2 or left <= 0:
        return []
    space = plan.space(history, history.sizes)
    problem = plan.problem(study, history, {n: dict.fromkeys(plan.types, 1.0) for n in space.groups})
    found = []
    for number, choice in enumerate(asked(study, plan, history, space, left)):
        mix = repaired(choice, problem, space.groups, random.Random(f"{study.planner_options['seed']} {done} {number}"))
        if mix:
            found.append(Proposal(plan.mixed(mix), "a mix that Optuna's TPE asked for", plan.author))
    return found


def asked(study: Study, plan: Plan, history: History, space: Space, count: int) -> list[dict[str, int]]:
    """What TPE wants to try: group -> number of the type."""
    try:
        import optuna
    except ImportError:
        raise UserError("planner=optuna needs Optuna: pip install -c constraints.txt 'sintra[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space_of = {g: optuna.distributions.IntDistribution(0, len(plan.types) - 1) for g in space.group_names}
    sampler = optuna.samplers.TPESampler(seed=study.planner_options["seed"] * 1000 + int(spent(history)), multivariate=True)
    trials = optuna.create_study(sampler=sampler)
    for seen in history.seen:
        mix = mix_of(seen.recipe, space) if seen.level == "search" else None
        if mix is not None:
            params = {
                group: plan.types.index(next(mix[n] for n, g in space.groups.items() if g == group)) for group in space_of
            }
            trials.add_trial(
                optuna.trial.create_trial(params=params, distributions=dict(space_of), value=seen.metrics["kld_mean"].value)
            )
    return [trials.ask(dict(space_of)).params for _ in range(count)]
