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
from sintra.planning.solver.mixes import MixSettings, observe_mixes
from sintra.planning.solver.search import prior_of_study
from sintra.planning.solver.surrogate import fit_surrogate
from sintra.planning.solver.transfer import lesson_of
from sintra.planning.state import ModelFacts, Priors, StudyLesson
from sintra.store import history as database
from sintra.store.store import Store
from sintra.study.planner_state import planner_state_of

NEAREST = 3
SAME, OTHER = 10.0, 0.95  # the same weights beside a kin's; another device class or objective

Row = dict[str, Any]


def learned(
    graph: Graph, store: Store, given: list[list[Proposal]], known: list[Candidate]
) -> Row | None:
    """What a study that has ended teaches: its fitted model, what it was of, and how it ended; None
    where no planner of mixes was at work or too little was measured.
    """
    state = planner_state_of(graph, store, given, known)
    model, sizes = state.model, state.model.sizes
    if len(model.distortion) < 2 or sizes is None or model.shape is None:
        return None
    uniform = next(iter(model.distortion))
    types = tuple(sorted(r.tensors[0][1] for r in model.distortion))  # a replay has none
    planner = replace(graph.study.planner, types=types, rounding=uniform.rounding)
    study = replace(graph.study, planner=planner)
    settings = MixSettings.of(study).with_built_types(model)
    space = settings.space(model, sizes)
    observations = observe_mixes(settings, state.results, space)
    if len(observations) <= len(settings.types):
        return None
    prior = prior_of_study(settings, state, space, sizes)
    surrogate = fit_surrogate(space, observations, prior=prior)
    least = min(o.value for o in observations)
    return (
        kind_of(study, model, graph)
        | lesson_of(surrogate, sizes.matrices).as_json()
        | {
            "evaluations": len(observations),
            "least_kld": least,
            "misfit": round(surrogate.misfit, 4),
        }
    )


def kind_of(study: Study, model: ModelFacts, graph: Graph) -> Row:
    """What makes studies alike."""
    assert model.shape is not None
    return {
        "architecture": model.architecture,
        "weights": graph.source.digest,
        "parameters": model.shape.parameters,
        "blocks": model.layers,
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


def recalled(graph: Graph, store: Store, model: ModelFacts) -> Priors:
    """The most similar earlier studies, the most similar first: in words for a language model, and
    what they taught.
    """
    if not graph.study.planner.learn or model.shape is None:
        return Priors()
    own = kind_of(graph.study, model, graph)
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
    return Priors(tuple(StudyLesson.of(t, w) for w, _, t in found), words)
