"""Lessons from one study to the next: what a finished study teaches, and which earlier studies are
similar to a new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from sintra.build.graph import Graph
from sintra.core.types import Candidate, Proposal, Study
from sintra.planning.solver.mixes import Plan, observations
from sintra.planning.solver.search import believed
from sintra.planning.solver.surrogate import Observation, Surrogate, fit
from sintra.planning.solver.transfer import lesson
from sintra.planning.state import History, Lesson
from sintra.store import history as database
from sintra.store.store import Store
from sintra.study.json_types import LessonJson, StudyKindJson
from sintra.study.planner_state import history

NEAREST = 3  # lessons that a study starts with
SAME_WEIGHTS = 10.0  # weight of a lesson of the same weights; a similar model's is at most 1
OTHER_SETTING = 0.95  # factor for another backend, objective or number of blocks


class EarlierStudy(NamedTuple):
    """An earlier study that is similar to the one at hand."""

    similarity: float  # 0 to SAME_WEIGHTS
    row: dict[str, Any]  # of sintra.store.history
    lesson: LessonJson


def learn_lesson(
    graph: Graph,
    store: Store,
    rounds: list[list[Proposal]],
    candidates: list[Candidate],
) -> LessonJson | None:
    """Return what a study that has ended teaches: its kind, its fitted model and how it ended.

    None where no planner of mixes was at work or too little was measured.
    """
    state = history(graph, store, rounds, candidates, None)
    if len(state.distortion) < 2 or state.sizes is None or state.shape is None:
        return None
    study = with_mix_options(graph.study, state)
    fitted = fit_model(study, state)
    if fitted is None:
        return None
    model, rows = fitted
    taught = (
        study_kind(study, state, graph)
        | lesson(model, state.sizes.matrices).as_json()
        | {
            "evaluations": len(rows),
            "least_kld": min(row.value for row in rows),
            "misfit": round(model.misfit, 4),
        }
    )
    return cast(LessonJson, taught)


def with_mix_options(study: Study, state: History) -> Study:
    """Return the study with the types and the rounding of its uniform files, which a replay's
    options don't name.
    """
    uniform = next(iter(state.distortion))
    options = {
        "types": sorted(recipe.tensors[0][1] for recipe in state.distortion),
        "rounding": uniform.rounding,
    }
    return replace(study, planner_options=study.planner_options | options)


def fit_model(study: Study, state: History) -> tuple[Surrogate, list[Observation]] | None:
    """Fit the KLD model to a study's mixes; None for no more observations than types."""
    assert state.sizes is not None
    plan = Plan.of(study).made(state)
    space = plan.space(state, state.sizes)
    rows = observations(plan, state, space)
    if len(rows) <= len(plan.types):
        return None
    return fit(space, rows, belief=believed(plan, state, space)), rows


def study_kind(study: Study, state: History, graph: Graph) -> StudyKindJson:
    """Return what makes studies alike."""
    assert state.shape is not None
    return {
        "architecture": state.architecture,
        "weights": graph.source.digest,
        "parameters": state.shape.parameters,
        "blocks": state.layers,
        "backend": study.hardware.backend,
        "optimise": study.goal.optimise,
        "rounding": study.planner_options["rounding"],
    }


def similarity(own: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return how much another study's lesson weighs, by the kinds of both studies.

    0 for another architecture or rounding; SAME_WEIGHTS for the same weights; else 1 for the same
    number of parameters and less by e for a factor of e squared.
    """
    if any(own[k] != other.get(k) for k in ("architecture", "rounding")):
        return 0.0
    if own["weights"] == other["weights"]:
        return SAME_WEIGHTS
    size = math.exp(-abs(math.log(own["parameters"] / other["parameters"])) / 2)
    settings = ("backend", "optimise", "blocks")
    return size * math.prod(OTHER_SETTING for k in settings if own[k] != other[k])


def recall_lessons(
    graph: Graph, store: Store, state: History
) -> tuple[tuple[dict[str, Any], ...], tuple[Lesson, ...]]:
    """Return the most similar earlier studies, the most similar first: as facts for a language
    model, and what they taught. Both are empty where the planner isn't to learn.
    """
    if not graph.study.planner_options["learn"] or state.shape is None:
        return (), ()
    kind = study_kind(graph.study, state, graph)
    studies = similar_studies(store, graph.study.id, kind)
    facts = tuple(study_facts(earlier) for earlier in studies)
    taught = tuple(Lesson.of(cast(dict[str, Any], s.lesson), s.similarity) for s in studies)
    return facts, taught


def similar_studies(store: Store, study: str, kind: StudyKindJson) -> Sequence[EarlierStudy]:
    """Return up to NEAREST other studies of the history, by similarity, then the newest first."""
    studies = []
    for row in database.lessons(store.root / "history.db"):
        if row["study"] != study:
            taught = json.loads(row["learned"])
            if weight := similarity(kind, taught):
                studies.append(EarlierStudy(weight, row, taught))
    return sorted(studies, key=lambda s: (s.similarity, s.row["id"]), reverse=True)[:NEAREST]


def study_facts(earlier: EarlierStudy) -> dict[str, Any]:
    """Return what a language model is shown of an earlier study."""
    row, taught = earlier.row, earlier.lesson
    return {k: row[k] for k in ("model", "hardware", "goal", "status", "winner")} | {
        "evaluations": taught["evaluations"],
        "least_kld": taught["least_kld"],
        "parameters": taught["parameters"],
    }
