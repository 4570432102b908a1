"""TODO."""

from __future__ import annotations

from dataclasses import replace

from sintra.build.graph import Graph
from sintra.core.format import format_of
from sintra.core.recipe import Recipe
from sintra.core.types import Artifact, Candidate, Failure, Measurement, Proposal
from sintra.hardware.boards.corrections import corrected, replaced
from sintra.hardware.estimate.estimate import Shape
from sintra.hardware.estimate.runtimes import estimated
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store
from sintra.study.round_files import Round, proposals

SEARCH_KLD = "kld_mean_search"


def candidates(graph: Graph, store: Store, rounds: list[Round]) -> list[Candidate]:
    """Every recipe that was to be measured so far with all that the store knows of it."""
    levels: dict[Recipe, list[Proposal]] = {}
    first: dict[Recipe, int] = {}
    for number, proposal in ((r["round"], p) for r in rounds for p in proposals(r)):
        if proposal.level in ("search", "report"):
            levels.setdefault(proposal.recipe, []).append(proposal)
            first.setdefault(proposal.recipe, number)
    found = [
        candidate(graph, store, recipe, given, first[recipe]) for recipe, given in levels.items()
    ]
    return corrected(found) if graph.study.board else found


def candidate(
    graph: Graph, store: Store, recipe: Recipe, given: list[Proposal], number: int
) -> Candidate:
    """One recipe: numbers of the report text replace those of the search text."""
    numbers: dict[str, Measurement] = {}
    made = graph.quantize(recipe).outcome(store)
    failure = made if isinstance(made, Failure) else None
    file, decided = None, False
    if isinstance(made, Artifact):
        file = made.model
        shape = Shape.of(store.read_json(made, "layout.json"))
        numbers["size_bytes"] = Measurement("size_bytes", file.size, "bytes", "exact")
        context, runtime = graph.study.probe.context, format_of(recipe.format).runtime
        for row in estimated(shape, graph.study.hardware, context, recipe.kv, runtime):
            numbers[row.metric] = row
    for level in sorted({p.level for p in given}, reverse=True):
        for step in graph.variant(recipe, level).ends():
            outcome = step.outcome(store)
            if isinstance(outcome, Failure):
                failure = outcome
            elif isinstance(outcome, Artifact):
                said = any(
                    f.path == MEASUREMENTS_FILE for f in outcome.files
                )  # a plugin's stage need not measure anything
                rows = (
                    parse_measurements(store.read_json(outcome, MEASUREMENTS_FILE)) if said else []
                )
                if step.stage in ("quality", "quality_hf"):
                    decided = decided or (
                        level == "report" and any(r.metric == "kld_mean" for r in rows)
                    )
                    for row in rows:
                        if level == "report" or row.metric not in numbers:
                            numbers[row.metric] = row
                        if (
                            level == "search" and row.metric == "kld_mean"
                        ):  # what was foreseen, and is to be compared with
                            numbers[SEARCH_KLD] = replace(row, metric=SEARCH_KLD)
                else:
                    replaced(numbers, rows)
    first = given[0]
    return Candidate(
        recipe,
        first.why,
        first.author,
        tuple(numbers.values()),
        file,
        failure,
        decided,
        first.predicted,
        first.confidence,
        number,
    )
