"""Searches over choices of a type for each group: a choice is made to hold the limits by lowering
and raising single groups at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from sintra.config.study import Study
from sintra.core.types import Proposal
from sintra.planning.solver.mixes import Mix, MixSettings, evaluations_spent
from sintra.planning.solver.problem import Problem
from sintra.planning.solver.surrogate import Space
from sintra.planning.state import PlannerState

TypeChoice = Mapping[str, int]  # group -> number of its type, from low to high
# (settings, space, how many choices, number of measurements so far) -> choices
ChooseTypes = Callable[[MixSettings, Space, int, int], Sequence[TypeChoice]]


def propose_choices(
    study: Study, state: PlannerState, batch: int, choose: ChooseTypes, why: str
) -> list[Proposal]:
    """Propose the next round of a search that chooses without looking at the limits."""
    settings = MixSettings.of(study, state.model.columns)
    if not state.results.attempts:
        return settings.propose_files() + settings.propose_type_curve()
    settings = settings.with_built_types(state.model)
    done = int(evaluations_spent(state))
    count = min(batch, settings.evaluations - done)
    sizes, shape = state.model.sizes, state.model.shape
    if sizes is None or shape is None or len(settings.types) < 2 or count <= 0:
        return []
    space = settings.space(state.model, sizes)
    equal_weights = {name: dict.fromkeys(settings.types, 1.0) for name in space.groups}
    problem = settings.problem(study, sizes, shape, equal_weights)
    proposals = []
    for number, choice in enumerate(choose(settings, space, count, done)):
        rng = random.Random(f"{study.planner.seed} {done} {number}")
        if mix := repair_choice(choice, problem, space.groups, rng):
            proposals.append(Proposal(settings.mix_recipe(mix), why, settings.author))
    return proposals


def choice_as_mix(choice: TypeChoice, groups: Mapping[str, str], types: Sequence[str]) -> Mix:
    """Return tensor -> type. groups: tensor -> group."""
    return {name: types[choice[group]] for name, group in groups.items()}


def fits_limits(problem: Problem, mix: Mix) -> bool:
    """Say whether a mix is allowed and within the limits on bytes and time."""
    table = problem.table
    columns = [table.types.index(mix[name]) for name in table.names]
    return (
        all(table.allowed[row, column] for row, column in enumerate(columns))
        and table.total(table.size, columns) <= problem.size_limit
        and table.total(table.time, columns) <= problem.time_limit
    )


def repair_choice(
    choice: TypeChoice, problem: Problem, groups: Mapping[str, str], rng: random.Random
) -> Mix | None:
    """Return a mix near a choice that holds the limits and fills them, by a random walk.

    None where even the lowest types don't fit.
    """
    types, current = problem.table.types, dict(choice)
    order = sorted(set(groups.values()))
    while not fits_limits(problem, choice_as_mix(current, groups, types)):
        lower = [
            group
            for group in order
            if current[group] > 0 and group_allows(problem, groups, group, current[group] - 1)
        ]
        if not lower:
            return None
        current[rng.choice(lower)] -= 1
    rest = list(order)
    while rest:
        group = rng.choice(rest)
        raised = {**current, group: current[group] + 1}
        if raised[group] < len(types) and fits_limits(
            problem, choice_as_mix(raised, groups, types)
        ):
            current = raised
        else:
            rest.remove(group)
    return choice_as_mix(current, groups, types)


def group_allows(problem: Problem, groups: Mapping[str, str], group: str, column: int) -> bool:
    """Say whether every tensor of a group may have the type of a column."""
    return all(
        problem.table.allowed[row, column]
        for row, name in enumerate(problem.table.names)
        if groups[name] == group
    )
