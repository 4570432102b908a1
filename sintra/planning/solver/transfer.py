"""What studies of similar models showed, as the prior of the next one's model.

A lesson is a fitted model without its scale: how much more a class of tensors matters than the
average at which depth, by which factor a type is better or worse than its distortion says, and how
the link bends. Only these ratios carry over from one model to another; the absolute loss is
measured again. Several lessons are averaged by their weight; how far they lie apart says how far
they can be trusted, and one alone is trusted no more than SPREAD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sintra.formats.gguf.sizes import Matrix
from sintra.planning.solver.surrogate import Prior, Surrogate
from sintra.planning.state import StudyLesson

# Standard deviations of log sensitivities, log factors and bend between models of one family:
# bench/learning.py.
SPREAD, SPREAD_TYPE, SPREAD_BEND = 0.35, 0.1, 0.25
LEAST_SPREAD = 0.15  # of log sensitivities, however well many lessons agree
OUTSIDE = 0.5  # the depth of what lies in no block


def class_and_depth(
    groups: Mapping[str, str], matrices: Sequence[Matrix]
) -> dict[str, tuple[str, float]]:
    """Return group -> its class of tensors and the mean depth of its blocks, from 0 to 1.

    groups: tensor -> group. What lies in no block has the depth OUTSIDE.
    """
    blocks = 1 + max((m.block for m in matrices if m.block is not None), default=0)
    members: dict[str, tuple[str, list[float]]] = {}
    for m in matrices:
        depth = OUTSIDE if m.block is None else (m.block + 0.5) / blocks
        members.setdefault(groups[m.name], (m.kind, []))[1].append(depth)
    return {g: (kind, sum(depths) / len(depths)) for g, (kind, depths) in members.items()}


def lesson_of(surrogate: Surrogate, matrices: Sequence[Matrix]) -> StudyLesson:
    """Return what a fitted model says of similar models."""
    space, theta = surrogate.space, [float(value) for value in surrogate.theta]
    names = space.group_names
    sensitivity = dict(zip(names, theta, strict=False))
    average = sum(sensitivity.values()) / len(sensitivity)
    by_depth = sorted(class_and_depth(space.groups, matrices).items(), key=lambda item: item[1][1])
    classes: dict[str, list[tuple[float, float]]] = {}
    for group, (kind, depth) in by_depth:
        point = (round(depth, 4), round(sensitivity[group] - average, 4))
        classes.setdefault(kind, []).append(point)
    factors = {t: round(m, 4) for t, m in zip(space.types, theta[len(names) :], strict=False)}
    return StudyLesson({k: tuple(v) for k, v in classes.items()}, factors, round(theta[-1], 4))


def interpolate(points: Sequence[tuple[float, float]], depth: float) -> float:
    """Return the value at a depth: linear between the points, constant beyond them."""
    below = max((p for p in points if p[0] <= depth), default=points[0])
    above = min((p for p in points if p[0] >= depth), default=points[-1])
    share = 0.0 if above[0] == below[0] else (depth - below[0]) / (above[0] - below[0])
    return below[1] + share * (above[1] - below[1])


def prior_of_lessons(
    lessons: Sequence[StudyLesson],
    groups: Mapping[str, str],
    matrices: Sequence[Matrix],
    types: Sequence[str],
) -> Prior | None:
    """Return the prior of a model's groups and types by what similar studies showed.

    None where no lesson speaks of every class and type.
    """
    places = class_and_depth(groups, matrices)
    kinds = {kind for kind, _ in places.values()}
    able = [x for x in lessons if kinds <= set(x.classes) and set(types) <= set(x.factors)]
    if not able:
        return None
    weights = [x.weight for x in able]
    rows = {
        group: [interpolate(x.classes[kind], depth) for x in able]
        for group, (kind, depth) in places.items()
    }
    means = {group: weighted_mean(row, weights) for group, row in rows.items()}
    variances = [
        weighted_mean([(value - means[group]) ** 2 for value in row], weights)
        for group, row in rows.items()
    ]
    apart = math.sqrt(weighted_mean(variances, [1.0] * len(rows)))
    spread = max(LEAST_SPREAD, (SPREAD + apart * (len(able) - 1)) / len(able))
    return Prior(
        {group: (mean, spread) for group, mean in means.items()},
        {t: (weighted_mean([x.factors[t] for x in able], weights), SPREAD_TYPE) for t in types},
        (weighted_mean([x.bend for x in able], weights), SPREAD_BEND),
    )


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean of values with weights."""
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
