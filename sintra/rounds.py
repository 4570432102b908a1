"""Rounds: what planners proposed, as files; what is known of each candidate; and what comes next."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra import lazy, plugins
from sintra.bounds import hopeless
from sintra.branches import branches, tried
from sintra.formats import FORMATS
from sintra.graph import Graph
from sintra.hardware.estimate import Shape
from sintra.hardware.runtimes import estimated
from sintra.judge import judge, ranked
from sintra.known import history
from sintra.node import Step
from sintra.recipe import Recipe
from sintra.report import NAME, parse
from sintra.sealed import sealed, unsealed
from sintra.store import Store, write_atomic
from sintra.study import Workspace
from sintra.truth import corrected, informed, replaced
from sintra.types import Artifact, Candidate, Failure, Measurement, Proposal, Study

if TYPE_CHECKING:
    from sintra import lessons
else:
    lessons = lazy.module("sintra.lessons")

Round = dict[str, Any]
Say = Callable[[str], None]
FINALISTS = 2
SEARCH_KLD = "kld_mean_search"


def path_of(place: Workspace, number: int) -> Path:
    """The file of a round, counted from 1."""
    return place.folder / f"round-{number:02}.json"


def recorded(place: Workspace) -> list[Round]:
    """All rounds so far."""
    found: list[Round] = []
    while (given := read(path_of(place, len(found) + 1))) is not None:
        found.append(given)
    return found


def read(path: Path) -> Round | None:
    """A recorded round; None for one that isn't as it was written: it is planned anew, and those
    behind it wait for it.
    """
    try:
        given = unsealed(path.read_bytes())
        return (
            given
            if given is not None
            and {"round", "stop"} <= set(given)
            and proposals(given) is not None
            else None
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def ended(place: Workspace) -> bool:
    """Whether the last recorded round says that there are no more."""
    paths = sorted(place.folder.glob("round-*.json"))
    last = read(paths[-1]) if paths else None
    return last is not None and last["stop"] is not None


def reopen(place: Workspace) -> None:
    """Forget the end of a study in which something failed that may pass: the next run tries that
    again.
    """
    known = recorded(place)
    if known and known[-1].get("again"):
        path_of(place, len(known)).unlink()


def proposals(given: Round) -> list[Proposal]:
    """A round's proposals."""
    return [Proposal.of(p) for p in given["proposals"]]


def steps_of(graph: Graph, given: Round) -> list[Step]:
    """Every step that a round needs, inputs first, each once."""
    found: dict[str, Step] = {}
    for proposal in proposals(given):
        for end in graph.variant(proposal.recipe, proposal.level).ends():
            for step in end.all():
                found.setdefault(step.name, step)
    return list(found.values())


def reasons(graph: Graph, given: Round) -> dict[str, str]:
    """Step name -> who proposed it and why, for the steps that a recipe has to itself."""
    found = {}
    for proposal in proposals(given):
        variant = graph.variant(proposal.recipe, proposal.level)
        for step in (variant.quantize, *variant.ends()):
            found[step.name] = f"{proposal.author}: {proposal.why}"
    return found


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
    return corrected(found) if graph.study.device else found


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
        context, runtime = graph.study.probe["context"], FORMATS[recipe.format].runtime
        for row in estimated(shape, graph.study.hardware, context, recipe.kv, runtime):
            numbers[row.metric] = row
    for level in sorted({p.level for p in given}, reverse=True):
        for step in graph.variant(recipe, level).ends():
            outcome = step.outcome(store)
            if isinstance(outcome, Failure):
                failure = outcome
            elif isinstance(outcome, Artifact):
                said = any(
                    f.path == NAME for f in outcome.files
                )  # a plugin's stage need not measure anything
                rows = parse(store.read_json(outcome, NAME)) if said else []
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


def next_round(graph: Graph, store: Store, rounds: list[Round], say: Say | None = None) -> Round:
    """What to do next: more variants, a decision on the report text, or to stop (with the reason).

    say: a line for the user; without it (a dry run) nobody outside is asked.
    """
    study = graph.study
    known = candidates(graph, store, rounds)
    number = len(rounds) + 1
    if number == 1 and (stop := hopeless(study, graph.source)):
        return _round(number, [], stop)
    if number <= study.max_rounds:
        before = {(p.recipe, p.level) for r in rounds for p in proposals(r)}
        planned = plan(graph, store, rounds, known, say) if "gguf" in tried(study) else []
        fresh = [p for p in [*branches(study), *planned] if (p.recipe, p.level) not in before]
        if fresh:
            return _round(number, fresh, None)
    kinds = dict.fromkeys(
        c.recipe.format for c in known
    )  # each format's best is measured, so that they can be compared
    finalists = [
        p for name in kinds for p in deciding(study, [c for c in known if c.recipe.format == name])
    ]
    if finalists:
        return _round(number, finalists, None)
    end = _round(number, [], "decided" if known else "the planner proposed nothing") | {
        "again": store.excused
    }
    gguf = [[p for p in proposals(r) if p.recipe.format == "gguf"] for r in rounds]
    return end | {"learned": lessons.learned(graph, store, gguf, known)}


def plan(
    graph: Graph, store: Store, rounds: list[Round], known: list[Candidate], say: Say | None
) -> list[Proposal]:
    """Ask the study's planner, which is shown what is GGUF; a replay sees everything."""
    every = graph.study.planner == "replay"
    shown = [[p for p in proposals(r) if every or p.recipe.format == "gguf"] for r in rounds]
    seen = history(
        graph, store, shown, [c for c in known if every or c.recipe.format == "gguf"], say
    )
    past, taught = lessons.recalled(graph, store, seen)
    proposed: list[Proposal] = plugins.load("planners", graph.study.planner)(
        informed(graph.study, known), replace(seen, past=past, lessons=taught)
    )
    return proposed


def deciding(study: Study, known: list[Candidate]) -> list[Proposal]:
    """Finalists that must be measured on the report text before the study can end: the best that
    isn't refuted, until one of them holds; or, where none can, the one that misses the limits
    least.
    """
    order = ranked(known, study.goal)
    open_ones = []
    for found in order:
        if judge(found, study.goal).status == "met":
            break
        if not found.decided and (
            judge(found, study.goal).status == "undecided" or found is order[0]
        ):
            open_ones.append(found)
    why = "among the best on the search text: measured on the report text"
    return [Proposal(c.recipe, why, "study", "report") for c in open_ones[:FINALISTS]]


def _round(number: int, given: list[Proposal], stop: str | None) -> Round:
    return {"round": number, "proposals": [asdict(p) for p in given], "stop": stop}


def write_round(place: Workspace, given: Round) -> None:
    """Record a round, whole or not at all."""
    write_atomic(
        path_of(place, given["round"]), sealed(json.dumps(given, indent=1, sort_keys=True) + "\n")
    )


def write_keys(place: Workspace, graph: Graph, known: list[Round]) -> None:
    """Record which keys this study stands on: the roots of `doit gc`."""
    keys = {s.key(place.store) for r in known for s in steps_of(graph, r)} - {None}
    text = json.dumps(sorted(str(k) for k in keys))
    path = place.folder / "keys.json"
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomic(path, text)
    else:
        with contextlib.suppress(OSError):  # a cache that is read-only serves all the same
            os.utime(path)  # when a study was last run is what `doit gc --older` goes by
