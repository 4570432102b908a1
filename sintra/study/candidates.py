"""Candidates: every recipe that a study measures, with all that the store has of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core.artifact import Artifact, Failure
from sintra.core.format import format_of
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Goal, Level, Measurement, Proposal
from sintra.hardware.boards.corrections import add_board_measurements, correct_candidates
from sintra.hardware.estimate.estimate import Shape
from sintra.hardware.estimate.runtimes import estimate_for_runtime
from sintra.planning.belief import as_measurement, expected_on_report, ratio_of_candidates
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Outcome, Store
from sintra.study.round_files import Round
from sintra.study.variant_names import study_names

SEARCH_KLD = "kld_mean_search"
MEASURED_LEVELS = ("search", "report")
QUALITY_STAGES = ("quality", "quality_hf")
Numbers = dict[str, Measurement]  # metric -> measurement


def collect_candidates(graph: Graph, store: Store, rounds: Sequence[Round]) -> list[Candidate]:
    """Return every recipe that the rounds measure, in the order in which it was proposed."""
    proposals: dict[Recipe, list[Proposal]] = {}
    first_round: dict[Recipe, int] = {}
    for each in rounds:
        for proposal in each.proposals:
            if proposal.level in MEASURED_LEVELS:
                proposals.setdefault(proposal.recipe, []).append(proposal)
                first_round.setdefault(proposal.recipe, each.number)
    names = study_names(graph, store, rounds)
    candidates = [
        replace(candidate_of(graph, store, own, first_round[recipe]), name=names[recipe])
        for recipe, own in proposals.items()
    ]
    candidates = with_expectations(candidates, graph.study.goal)
    return correct_candidates(candidates) if graph.study.board else candidates


def with_expectations(candidates: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    """Return the candidates with what the report text should say of those that it hasn't judged."""
    ratio = ratio_of_candidates(candidates, goal)
    return [
        c
        if c.decided or (belief := expected_on_report(c, ratio)) is None
        else replace(c, expected=as_measurement(belief))
        for c in candidates
    ]


def candidate_of(
    graph: Graph, store: Store, proposals: Sequence[Proposal], first_round: int
) -> Candidate:
    """Return one recipe's candidate from its proposals, the earliest first.

    Numbers of the report text replace those of the search text.
    """
    first = proposals[0]
    recipe, numbers = first.recipe, Numbers()
    model = graph.quantize(recipe).outcome(store)
    failure = model if isinstance(model, Failure) else None
    if isinstance(model, Artifact):
        numbers |= estimates(graph, store, recipe, model)
    decided = False
    for level, step, outcome in outcomes(graph, store, recipe, {p.level for p in proposals}):
        if isinstance(outcome, Failure):
            failure = outcome
        elif isinstance(outcome, Artifact):
            rows = measured_rows(store, outcome)
            if step.stage in QUALITY_STAGES:
                decided = decided or decides(level, rows)
                add_quality(numbers, level, rows)
            else:
                add_board_measurements(numbers, rows)
    return Candidate(
        recipe,
        first.why,
        first.author,
        tuple(numbers.values()),
        model.model if isinstance(model, Artifact) else None,
        failure,
        decided,
        first.predicted,
        first.confidence,
        first_round,
        probe=first.probe,
    )


def estimates(graph: Graph, store: Store, recipe: Recipe, model: Artifact) -> Numbers:
    """Return a variant's size, and memory and speed on the device, estimated from its layout."""
    size = Measurement("size_bytes", model.model.size, "bytes", "exact")
    shape = Shape.of(store.read_json(model, "layout.json"))
    study, runtime = graph.study, format_of(recipe.format).runtime
    rows = estimate_for_runtime(
        shape, study.hardware, study.context, recipe.kv, runtime, study.depth
    )
    return {"size_bytes": size} | {row.metric: row for row in rows}


def outcomes(
    graph: Graph, store: Store, recipe: Recipe, levels: set[Level]
) -> Iterator[tuple[Level, Step, Outcome | None]]:
    """Yield the outcome of each measuring step of a recipe, those on the search text first."""
    for level in sorted(levels, reverse=True):
        for step in graph.variant(recipe, level).ends():
            yield level, step, step.outcome(store)


def measured_rows(store: Store, artifact: Artifact) -> tuple[Measurement, ...]:
    """Return an artifact's measurements; a plugin's stage need not have any."""
    if not any(f.path == MEASUREMENTS_FILE for f in artifact.files):
        return ()
    return parse_measurements(store.read_json(artifact, MEASUREMENTS_FILE))


def decides(level: Level, rows: Sequence[Measurement]) -> bool:
    """Return whether the rows hold the KLD on the report text."""
    return level == "report" and any(row.metric == "kld_mean" for row in rows)


def add_quality(numbers: Numbers, level: Level, rows: Sequence[Measurement]) -> None:
    """Add the quality on one text; the KLD on the search text is kept under its own name too.

    That one is compared with the planner's prediction.
    """
    for row in rows:
        if level == "report" or row.metric not in numbers:
            numbers[row.metric] = row
        if level == "search" and row.metric == "kld_mean":
            numbers[SEARCH_KLD] = replace(row, metric=SEARCH_KLD)
