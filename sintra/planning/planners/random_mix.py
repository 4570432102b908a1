"""Random mixes that fill the limits: what any search must beat. The same groups, types and
evaluations as the solver.
"""

from __future__ import annotations

import random

from sintra.config.study import Study
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import Plan
from sintra.planning.solver.repair import searched
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import History

BATCH = 4


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""

    def choose(plan: Plan, space: Space, count: int, done: int) -> list[dict[str, int]]:
        rng = random.Random(f"{study.planner.seed} {done}")
        return [
            {g: rng.randrange(len(plan.types)) for g in space.group_names} for _ in range(count)
        ]

    return searched(study, history, BATCH, choose, "a random mix that fills the limits")
