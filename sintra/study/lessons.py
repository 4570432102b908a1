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
from sintra.config.study import Study
from sintra.core.types import Candidate, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.planning.solver.mixes import MixSettings, observe_mixes
from sintra.planning.solver.search import prior_of_study
from sintra.planning.solver.surrogate import Observation, Surrogate, fit_surrogate
from sintra.planning.solver.transfer import lesson_of
from sintra.planning.state import ModelFacts, PlannerState, Priors, StudyLesson
from sintra.store import history as database
from sintra.store.history import LessonRow
from sintra.store.store import Store
from sintra.study.json_types import LessonJson, StudyKindJson
from sintra.study.planner_state import planner_state_of

NEAREST = 3  # lessons that a study starts with
SAME_WEIGHTS = 10.0  # weight of a lesson of the same weights; a similar model's is at most 1
OTHER_SETTING = 0.95  # factor for another backend, objective or number of blocks


class EarlierStudy(NamedTuple):
    """An earlier study that is similar to the one at hand."""

    similarity: float  # 0 to SAME_WEIGHTS
    row: LessonRow  # of the history
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
    state = planner_state_of(graph, store, rounds, candidates)
    model = state.model
    if len(model.distortion) < 2 or model.sizes is None or model.shape is None:
        return None
    study = with_mix_options(graph.study, model)
    fitted = fit_mixes(study, state, model.sizes)
    if fitted is None:
        return None
    surrogate, observations = fitted
    lesson: dict[str, Any] = {
        **study_kind(study, model, graph),
        **lesson_of(surrogate, model.sizes.matrices).as_json(),
        "evaluations": len(observations),
        "least_kld": min(row.value for row in observations),
        "misfit": round(surrogate.misfit, 4),
    }
    return cast(LessonJson, lesson)


def with_mix_options(study: Study, model: ModelFacts) -> Study:
    """Return the study with the types and the rounding of its uniform files.

    A replay's options don't name them.
    """
    uniform = next(iter(model.distortion))
    types = tuple(sorted(recipe.tensors[0][1] for recipe in model.distortion))
    return replace(study, planner=replace(study.planner, types=types, rounding=uniform.rounding))


def fit_mixes(
    study: Study, state: PlannerState, sizes: MixSizes
) -> tuple[Surrogate, list[Observation]] | None:
    """Fit the KLD model to a study's mixes; None for no more observations than types."""
    settings = MixSettings.of(study, state.model.columns).with_built_types(state.model)
    space = settings.space(state.model, sizes)
    observations = observe_mixes(settings, state.results, space)
    if len(observations) <= len(settings.types):
        return None
    prior = prior_of_study(settings, state, space, sizes)
    return fit_surrogate(space, observations, prior=prior), observations


def study_kind(study: Study, model: ModelFacts, graph: Graph) -> StudyKindJson:
    """Return what makes studies alike."""
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


def recall_lessons(graph: Graph, store: Store, model: ModelFacts) -> Priors:
    """Return what the most similar earlier studies taught, the most similar first.

    Empty where the planner isn't to learn.
    """
    if not graph.study.planner.learn or model.shape is None:
        return Priors()
    kind = study_kind(graph.study, model, graph)
    studies = similar_studies(store, graph.study.id, kind)
    lessons = tuple(StudyLesson.of(cast(dict[str, Any], s.lesson), s.similarity) for s in studies)
    return Priors(lessons, tuple(study_facts(earlier) for earlier in studies))


def similar_studies(store: Store, study: str, kind: StudyKindJson) -> Sequence[EarlierStudy]:
    """Return up to NEAREST other studies of the history, by similarity, then the newest first."""
    studies = []
    for row in database.read_lessons(store.root / "history.db"):
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
