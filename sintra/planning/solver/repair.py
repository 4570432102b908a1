"""Searches over choices of a type for each group: a choice is made to hold the limits by lowering
and raising single groups at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from sintra.config.study import Study
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import Mix, Plan, spent
from sintra.planning.solver.problem import Problem
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import History

# (plan, space, how many, number of measurements so far) -> choices, group -> number of its type.
Choose = Callable[[Plan, Space, int, int], list[dict[str, int]]]


def searched(
    study: Study, history: History, batch: int, choose: Choose, why: str
) -> list[Proposal]:
    """The next round of a search that is told every measured mix and chooses blindly of the limits."""
    plan = Plan.of(study)
    if not history.tried:
        return plan.files() + plan.curve()
    plan, done = plan.made(history), int(spent(history))
    left = min(batch, plan.evaluations - done)
    if history.sizes is None or len(plan.types) < 2 or left <= 0:
        return []
    space = plan.space(history, history.sizes)
    problem = plan.problem(
        study, history, {n: dict.fromkeys(plan.types, 1.0) for n in space.groups}
    )
    found = []
    for number, choice in enumerate(choose(plan, space, left, done)):
        rng = random.Random(f"{study.planner.seed} {done} {number}")
        if mix := repaired(choice, problem, space.groups, rng):
            found.append(Proposal(plan.mixed(mix), why, plan.author))
    return found


def as_mix(choice: Mapping[str, int], groups: Mapping[str, str], types: Sequence[str]) -> Mix:
    """Tensor name -> type, from group -> number of its type."""
    return {name: types[choice[group]] for name, group in groups.items()}


def holds(problem: Problem, mix: Mix) -> bool:
    """Whether a mix is allowed and within the limits on bytes and time."""
    t = problem.table
    chosen = [t.types.index(mix[n]) for n in t.names]
    allowed = all(t.allowed[i, c] for i, c in enumerate(chosen))
    return (
        allowed
        and t.total(t.size, chosen) <= problem.size_limit
        and t.total(t.time, chosen) <= problem.time_limit
    )


def repaired(
    choice: Mapping[str, int], problem: Problem, groups: Mapping[str, str], rng: random.Random
) -> Mix | None:
    """The nearest such mix on a random walk; None where even the lowest types don't fit."""
    types, now = problem.table.types, dict(choice)
    order = sorted(set(groups.values()))
    while not holds(problem, as_mix(now, groups, types)):
        lower = [g for g in order if now[g] > 0 and allowed(problem, groups, g, now[g] - 1)]
        if not lower:
            return None
        now[rng.choice(lower)] -= 1
    left = list(order)
    while left:
        group = rng.choice(left)
        more = {**now, group: now[group] + 1}
        if more[group] < len(types) and holds(problem, as_mix(more, groups, types)):
            now = more
        else:
            left.remove(group)
    return as_mix(now, groups, types)


def allowed(problem: Problem, groups: Mapping[str, str], group: str, kind: int) -> bool:
    """Whether a group may have a type."""
    return all(
        problem.table.allowed[i, kind]
        for i, name in enumerate(problem.table.names)
        if groups[name] == group
    )
