"""What studies of similar models taught, as what is believed of the next one before anything is
measured.

A lesson is a fitted model without its scale: how much more a class of tensors matters than the
average at which depth, by which factor a type is better or worse than its distortion says, and how
the link bends. Only these ratios carry over from one model to another; how much damage there is in
all is measured anew. Several lessons are averaged by their weight; how far they lie apart says how
far they are to be trusted, and one alone is trusted no more than SPREAD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sintra.formats.gguf.sizes import Matrix
from sintra.planning.solver.surrogate import Belief, Surrogate
from sintra.planning.state import Lesson

# Standard deviations of log sensitivities and log factors between models of one family:
# bench/learning.py.
SPREAD, SPREAD_TYPE, SPREAD_BEND = 0.35, 0.1, 0.25
LEAST = 0.15
OUTSIDE = 0.5


def depths(groups: Mapping[str, str], matrices: Sequence[Matrix]) -> dict[str, tuple[str, float]]:
    """Group -> its class, and the middle of its blocks from 0 to 1 (OUTSIDE for what is in no
    block).
    """
    blocks = 1 + max((m.block for m in matrices if m.block is not None), default=0)
    found: dict[str, tuple[str, list[float]]] = {}
    for m in matrices:
        place = OUTSIDE if m.block is None else (m.block + 0.5) / blocks
        found.setdefault(groups[m.name], (m.kind, []))[1].append(place)
    return {g: (kind, sum(places) / len(places)) for g, (kind, places) in found.items()}


def lesson(model: Surrogate, matrices: Sequence[Matrix]) -> Lesson:
    """What a fitted model teaches others."""
    names, types = model.space.group_names, model.space.types
    values = dict(zip(names, (float(a) for a in model.theta), strict=False))
    middle = sum(values.values()) / len(values)
    classes: dict[str, list[tuple[float, float]]] = {}
    for group, (kind, depth) in sorted(
        depths(model.space.groups, matrices).items(), key=lambda g: g[1][1]
    ):
        classes.setdefault(kind, []).append((round(depth, 4), round(values[group] - middle, 4)))
    factors = {
        t: round(float(m), 4) for t, m in zip(types, model.theta[len(names) :], strict=False)
    }
    return Lesson(
        {k: tuple(v) for k, v in classes.items()}, factors, round(float(model.theta[-1]), 4)
    )


def at(points: Sequence[tuple[float, float]], depth: float) -> float:
    """The value at a depth: linear between the points, constant beyond them."""
    below = max((p for p in points if p[0] <= depth), default=points[0])
    above = min((p for p in points if p[0] >= depth), default=points[-1])
    share = 0.0 if above[0] == below[0] else (depth - below[0]) / (above[0] - below[0])
    return below[1] + share * (above[1] - below[1])


def belief(
    lessons: Sequence[Lesson],
    groups: Mapping[str, str],
    matrices: Sequence[Matrix],
    types: Sequence[str],
) -> Belief | None:
    """What to believe of a model's groups and types; None where the lessons don't speak of every
    class and type.
    """
    wanted = depths(groups, matrices)
    kinds = {kind for kind, _ in wanted.values()}
    able = [x for x in lessons if kinds <= set(x.classes) and set(types) <= set(x.factors)]
    if not able:
        return None
    weights = [x.weight for x in able]
    rows = {g: [at(x.classes[kind], depth) for x in able] for g, (kind, depth) in wanted.items()}
    means = {g: mean(v, weights) for g, v in rows.items()}
    apart = math.sqrt(
        mean(
            [mean([(v - means[g]) ** 2 for v in row], weights) for g, row in rows.items()],
            [1.0] * len(rows),
        )
    )
    spread = max(LEAST, (SPREAD + apart * (len(able) - 1)) / len(able))
    return Belief(
        {g: (v, spread) for g, v in means.items()},
        {t: (mean([x.factors[t] for x in able], weights), SPREAD_TYPE) for t in types},
        (mean([x.bend for x in able], weights), SPREAD_BEND),
    )


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted."""
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
