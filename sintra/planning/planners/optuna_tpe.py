"""Optuna's tree-structured Parzen estimator over the groups' types, asked and told round by round.

Choices that break a limit are repaired before they are measured; what is told is the repaired mix.
The study is made anew from the history each time, so that nothing but recorded rounds decides.
Needs the extra sintra[optuna].
"""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import Plan, mix_of
from sintra.planning.solver.repair import searched
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import History

BATCH = 2


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""

    def choose(plan: Plan, space: Space, count: int, done: int) -> list[dict[str, int]]:
        return asked(plan, history, space, count, study.planner.seed * 1000 + done)

    return searched(study, history, BATCH, choose, "a mix that Optuna's TPE asked for")


def asked(
    plan: Plan, history: History, space: Space, count: int, seed: int
) -> list[dict[str, int]]:
    """What TPE wants to try: group -> number of the type."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "planner=optuna needs Optuna: pip install -c constraints.txt 'sintra[optuna]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    choices = {
        g: optuna.distributions.IntDistribution(0, len(plan.types) - 1) for g in space.group_names
    }
    trials = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    for seen in history.seen:
        mix = mix_of(seen.recipe, space) if seen.level == "search" else None
        if mix is not None:
            types = {
                g: plan.types.index(next(mix[n] for n, own in space.groups.items() if own == g))
                for g in choices
            }
            value = seen.metrics["kld_mean"].value
            trials.add_trial(
                optuna.trial.create_trial(params=types, distributions=dict(choices), value=value)
            )
    return [trials.ask(dict(choices)).params for _ in range(count)]
