"""From the store to what a planner is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core import lazy
from sintra.core.artifact import Artifact, Failure
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.hardware.estimate.estimate import Shape
from sintra.planning.architectures import pockets
from sintra.planning.bounds import weights_by_columns
from sintra.planning.state import (
    KldDifference,
    ModelFacts,
    PlannerState,
    StudyResults,
    TensorDistortion,
    TextResult,
)
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store
from sintra.study.adviser import AdviserSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

RESAMPLES = 1000  # of the bootstrap over windows

Outcomes = Mapping[Recipe, Artifact | Failure | None]


def planner_state_of(
    graph: Graph,
    store: Store,
    rounds: Sequence[Sequence[Proposal]],
    candidates: Iterable[Candidate],
    session: AdviserSession | None = None,
) -> PlannerState:
    """Collect everything known after some rounds' proposals, but for what earlier studies showed.

    session: the run's use of a language model; without it only its kept replies are read.
    """
    proposals = [p for proposed in rounds for p in proposed]
    outcomes: Outcomes = {
        p.recipe: graph.quantize(p.recipe).outcome(store) for p in proposals if p.level == "build"
    }
    model = model_facts(graph, store, outcomes)
    results = StudyResults(
        candidates=tuple(candidates),
        attempts=frozenset((p.recipe, p.level) for p in proposals),
        failed=frozenset(r for r, outcome in outcomes.items() if isinstance(outcome, Failure)),
        last_round=tuple(rounds[-1]) if rounds else (),
        text_results=tuple(text_results(graph, store, proposals)),
        file_bytes=file_bytes(outcomes),
        kld_difference=kld_differences(graph, store),
    )
    session = session or AdviserSession()
    adviser = session.adviser(graph, store, model.architecture, proposals)
    return PlannerState(results=results, model=model, adviser=adviser)


def model_facts(graph: Graph, store: Store, outcomes: Outcomes) -> ModelFacts:
    """Collect what is known of the model. outcomes: of the files that were made."""
    uniform = {r: o for r, o in outcomes.items() if r.uniform and isinstance(o, Artifact)}
    sizes, shape = sizes_and_shape(store, uniform.values())
    converted = artifact_of(graph.convert(), store)
    layout = store.read_json(converted, "layout.json") if converted else None
    architecture = layout["architecture"] if layout else ""
    return ModelFacts(
        layers=layout["shape"]["layers"] if layout else None,
        architecture=architecture,
        sizes=sizes,
        columns=weights_by_columns(graph.source),
        presets=layout.get("presets", {}) if layout else {},
        shape=shape,
        distortion={r: errors for r in uniform if (errors := distortion(graph, store, r))},
        influence=influence(graph, store),
        sensitivity=sensitivity(graph, store),
        pockets=pockets(graph.root, architecture),
    )


def sizes_and_shape(
    store: Store, files: Iterable[Artifact]
) -> tuple[MixSizes | None, Shape | None]:
    """Return how large any mix is, and the architecture, from the first uniform file."""
    for artifact in files:
        layout = store.read_json(artifact, "layout.json")
        file = next(f for f in artifact.files if f.path == "model.gguf")
        return MixSizes.of(layout, file.size), Shape.of(layout)
    return None, None


def file_bytes(outcomes: Outcomes) -> dict[Recipe, int]:
    """Return the size in bytes of each GGUF that was made."""
    return {
        recipe: file.size
        for recipe, outcome in outcomes.items()
        if isinstance(outcome, Artifact)
        for file in outcome.files
        if file.path == "model.gguf"
    }


def distortion(graph: Graph, store: Store, recipe: Recipe) -> dict[str, TensorDistortion] | None:
    """Return a uniform file's errors, tensor by tensor, or None where they were not measured."""
    artifact = artifact_of(graph.distortion(recipe), store)
    return None if artifact is None else dict(store.read_json(artifact, "distortion.json"))


def influence(graph: Graph, store: Store) -> tuple[float, ...]:
    """Return each block's influence, or () where the curvature was not measured."""
    artifact = artifact_of(graph.curvature(), store)
    if artifact is None:
        return ()
    return tuple(store.read_json(artifact, "curvature.json")["influence"])


def sensitivity(graph: Graph, store: Store) -> dict[str, float]:
    """Return each tensor's sensitivity by the backward pass, or {} where there was none."""
    artifact = artifact_of(graph.sensitivity(), store) if graph.by_gradient else None
    return dict(store.read_json(artifact, "sensitivity.json")["tensors"]) if artifact else {}


def text_results(graph: Graph, store: Store, proposals: Iterable[Proposal]) -> Iterator[TextResult]:
    """Yield the measurements of each proposal that was measured on its text."""
    for proposal in proposals:
        variant = graph.variant(proposal.recipe, proposal.level)
        quality = artifact_of(variant.quality, store) if variant.quality else None
        if quality is None:
            continue
        tasks = (artifact_of(step, store) for step in variant.tasks)
        metrics = {
            measurement.metric: measurement
            for artifact in (quality, *tasks)
            if artifact
            for measurement in parse_measurements(store.read_json(artifact, MEASUREMENTS_FILE))
        }
        yield TextResult(proposal.recipe, proposal.level, metrics)


def kld_differences(graph: Graph, store: Store) -> KldDifference:
    """Return the comparison of two recipes on the search text (StudyResults.kld_difference)."""

    def kld_difference(first: Recipe, second: Recipe) -> tuple[float, float] | None:
        first_klds, second_klds = (
            window_klds(graph, store, first),
            window_klds(graph, store, second),
        )
        if first_klds is None or second_klds is None:
            return None
        gaps = first_klds - second_klds
        rng = np.random.default_rng(graph.study.seed)
        draws = rng.integers(0, len(gaps), (RESAMPLES, len(gaps)))
        return float(gaps.mean()), float(gaps[draws].mean(1).std(ddof=1))

    return kld_difference


def window_klds(graph: Graph, store: Store, recipe: Recipe) -> NDArray[np.float64] | None:
    """Return a recipe's mean KLD in each window of the search text, in nats, or None."""
    quality = graph.variant(recipe, "search").quality
    artifact = artifact_of(quality, store) if quality else None
    if artifact is None:
        return None
    digest = next(file.sha256 for file in artifact.files if file.path == "kld.npy")
    means: NDArray[np.float64] = np.load(store.blob_path(digest)).astype(np.float64).mean(1)
    return means


def artifact_of(step: Step, store: Store) -> Artifact | None:
    """Return what a step has made, or None where it has not run or has failed."""
    outcome = step.outcome(store)
    return outcome if isinstance(outcome, Artifact) else None
