"""Random mixes that fill the limits: what any search must beat. The same groups, types and
evaluations as the solver.
"""

from __future__ import annotations

import random

from sintra.config.study import Study
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import MixSettings
from sintra.planning.solver.repair import TypeChoice, propose_choices
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import PlannerState

BATCH = 4  # mixes per round


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round."""

    def choose_at_random(
        settings: MixSettings, space: Space, count: int, done: int
    ) -> list[TypeChoice]:
        rng = random.Random(f"{study.planner.seed} {done}")
        return [
            {group: rng.randrange(len(settings.types)) for group in space.group_names}
            for _ in range(count)
        ]

    why = "a random mix that fills the limits"
    return propose_choices(study, state, BATCH, choose_at_random, why)
