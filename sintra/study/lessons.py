"""From one study to the next: what a finished study taught, and which earlier ones are like the
present one.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from sintra.build.graph import Graph
from sintra.config.study import Study
from sintra.core.types import Candidate, Proposal
from sintra.planning.solver.mixes import Plan, observations
from sintra.planning.solver.search import believed
from sintra.planning.solver.surrogate import fit
from sintra.planning.solver.transfer import lesson
from sintra.planning.state import History, Lesson
from sintra.store import history as database
from sintra.store.store import Store
from sintra.study.planner_state import history

NEAREST = 3
SAME, OTHER = 10.0, 0.95  # the same weights beside a kin's; another device class or objective

Row = dict[str, Any]


def learned(
    graph: Graph, store: Store, given: list[list[Proposal]], known: list[Candidate]
) -> Row | None:
    """What a study that has ended teaches: its fitted model, what it was of, and how it ended; None
    where no planner of mixes was at work or too little was measured.
    """
    seen = history(graph, store, given, known, None)
    if len(seen.distortion) < 2 or seen.sizes is None or seen.shape is None:
        return None
    uniform = next(iter(seen.distortion))
    types = tuple(sorted(r.tensors[0][1] for r in seen.distortion))  # a replay has none
    planner = replace(graph.study.planner, types=types, rounding=uniform.rounding)
    study = replace(graph.study, planner=planner)
    plan = Plan.of(study).made(seen)
    space = plan.space(seen, seen.sizes)
    rows = observations(plan, seen, space)
    if len(rows) <= len(plan.types):
        return None
    model = fit(space, rows, belief=believed(plan, seen, space))
    best = min(rows, key=lambda r: r.value)
    return (
        kind_of(study, seen, graph)
        | lesson(model, seen.sizes.matrices).as_json()
        | {"evaluations": len(rows), "least_kld": best.value, "misfit": round(model.misfit, 4)}
    )


def kind_of(study: Study, seen: History, graph: Graph) -> Row:
    """What makes studies alike."""
    assert seen.shape is not None
    return {
        "architecture": seen.architecture,
        "weights": graph.source.digest,
        "parameters": seen.shape.parameters,
        "blocks": seen.layers,
        "backend": study.hardware.backend,
        "optimise": study.goal.optimise,
        "rounding": study.planner.rounding,
    }


def likeness(own: Row, other: Row) -> float:
    """How much another study's lesson weighs: 0 for another architecture or rounding, 10 for the
    same weights, else 1 for the same number of parameters and less by e for a factor of e squared.
    """
    if any(own[k] != other.get(k) for k in ("architecture", "rounding")):
        return 0.0
    if own["weights"] == other["weights"]:
        return SAME
    near = math.exp(-abs(math.log(own["parameters"] / other["parameters"])) / 2)
    return near * math.prod(OTHER for k in ("backend", "optimise", "blocks") if own[k] != other[k])


def recalled(
    graph: Graph, store: Store, seen: History
) -> tuple[tuple[Row, ...], tuple[Lesson, ...]]:
    """The most similar earlier studies, the most similar first: in words for a language model, and
    what they taught.
    """
    if not graph.study.planner.learn or seen.shape is None:
        return (), ()
    own = kind_of(graph.study, seen, graph)
    found = []
    for row in database.read_lessons(store.root / "history.db"):
        if row["study"] == graph.study.id:
            continue
        taught = json.loads(row["learned"])
        weight = likeness(own, taught)
        if weight:
            found.append((weight, row, taught))
    found = sorted(found, key=lambda f: (f[0], f[1]["id"]), reverse=True)[:NEAREST]
    words = tuple(
        {k: r[k] for k in ("model", "hardware", "goal", "status", "winner")}
        | {k: t[k] for k in ("evaluations", "least_kld", "parameters")}
        for _, r, t in found
    )
    return words, tuple(Lesson.of(t, w) for w, _, t in found)
