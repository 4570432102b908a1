"""Optuna's tree-structured Parzen estimator over the groups' types, round by round.

Choices that break a limit are repaired before they are measured; Optuna is given the repaired mix.
Its study is built again from the recorded results each time, so that nothing else decides. Needs
the extra sintra[optuna].
"""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import MixSettings, mix_of
from sintra.planning.solver.repair import TypeChoice, propose_choices
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import PlannerState, StudyResults

BATCH = 2  # mixes per round


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round. Raises UserError where Optuna isn't installed."""

    def choose_by_tpe(
        settings: MixSettings, space: Space, count: int, done: int
    ) -> list[TypeChoice]:
        seed = study.planner.seed * 1000 + done
        return suggest_choices(settings, state.results, space, count, seed)

    return propose_choices(study, state, BATCH, choose_by_tpe, "a mix that Optuna's TPE asked for")


def suggest_choices(
    settings: MixSettings, results: StudyResults, space: Space, count: int, seed: int
) -> list[TypeChoice]:
    """Return the choices that TPE wants to try next, after everything measured so far.

    Raises UserError where Optuna isn't installed.
    """
    try:
        import optuna  # an optional package
    except ImportError:
        raise UserError(
            "planner=optuna needs Optuna: pip install -c constraints.txt 'sintra[optuna]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    highest = len(settings.types) - 1
    choices = {
        group: optuna.distributions.IntDistribution(0, highest) for group in space.group_names
    }
    trials = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    member: dict[str, str] = {}  # of each group, the first tensor
    for name, group in space.groups.items():
        member.setdefault(group, name)
    for result in results.text_results:
        mix = mix_of(result.recipe, space) if result.level == "search" else None
        if mix is not None:
            trials.add_trial(
                optuna.trial.create_trial(
                    params={group: settings.types.index(mix[member[group]]) for group in choices},
                    distributions=dict(choices),
                    value=result.metrics["kld_mean"].value,
                )
            )
    return [trials.ask(dict(choices)).params for _ in range(count)]
