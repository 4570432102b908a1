"""Random mixes that fill the limits: what any search must beat. The same groups, types and evaluations as the solver."""

from __future__ import annotations

import random

from sintra.allocation.recipes import Plan, spent
from sintra.allocation.repair import repaired
from sintra.planning import History
from sintra.types import Proposal, Study

BATCH = 4


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
    for number in range(left):
        rng = random.Random(f"{study.planner_options['seed']} {done} {number}")
        choice = {g: rng.randrange(len(plan.types)) for g in space.group_names}
        if mix := repaired(choice, problem, space.groups, rng):
            found.append(Proposal(plan.mixed(mix), "a random mix that fills the limits", plan.author))
    return found
