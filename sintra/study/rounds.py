"""Rounds: the steps that proposals need, and what to propose next."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.config.study import Study
from sintra.core import lazy, plugins
from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate, Proposal
from sintra.hardware.boards.corrections import informed
from sintra.planning.bounds import infeasible_reason
from sintra.planning.other_formats import buildable_formats, propose_other_formats
from sintra.store.files import write_atomic
from sintra.store.store import Store
from sintra.study.adviser import AdviserSession
from sintra.study.candidates import candidates
from sintra.study.planner_state import planner_state_of
from sintra.study.round_files import Round, proposals
from sintra.study.workspace import Workspace

if TYPE_CHECKING:
    from sintra.study import lessons
else:
    lessons = lazy.module("sintra.study.lessons")

FINALISTS = 2


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


def next_round(
    graph: Graph, store: Store, rounds: list[Round], session: AdviserSession | None = None
) -> Round:
    """What to do next: more variants, a decision on the report text, or to stop (with the reason).

    session: the run's use of a language model; without it (a dry run) nobody outside is asked.
    """
    study = graph.study
    known = candidates(graph, store, rounds)
    number = len(rounds) + 1
    if number == 1 and (stop := infeasible_reason(study, graph.source)):
        return _round(number, [], stop)
    if number <= study.max_rounds:
        before = {(p.recipe, p.level) for r in rounds for p in proposals(r)}
        planned = (
            plan(graph, store, rounds, known, session) if "gguf" in buildable_formats(study) else []
        )
        fresh = [
            p
            for p in [*propose_other_formats(study), *planned]
            if (p.recipe, p.level) not in before
        ]
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
        "again": store.failed_this_run
    }
    gguf = [[p for p in proposals(r) if p.recipe.format == "gguf"] for r in rounds]
    return end | {"learned": lessons.learned(graph, store, gguf, known)}


def plan(
    graph: Graph,
    store: Store,
    rounds: list[Round],
    known: list[Candidate],
    session: AdviserSession | None,
) -> list[Proposal]:
    """Ask the study's planner, which is shown what is GGUF; a replay sees everything."""
    every = graph.study.planner.name == "replay"
    shown = [[p for p in proposals(r) if every or p.recipe.format == "gguf"] for r in rounds]
    state = planner_state_of(
        graph, store, shown, [c for c in known if every or c.recipe.format == "gguf"], session
    )
    proposed: list[Proposal] = plugins.load("planners", graph.study.planner.name)(
        informed(graph.study, known),
        replace(state, priors=lessons.recalled(graph, store, state.model)),
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


def write_keys(workspace: Workspace, graph: Graph, known: list[Round]) -> None:
    """Record which keys this study stands on: the roots of `doit gc`."""
    keys = {s.key(workspace.store) for r in known for s in steps_of(graph, r)} - {None}
    text = json.dumps(sorted(str(k) for k in keys))
    path = workspace.folder / "keys.json"
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomic(path, text)
    else:
        with contextlib.suppress(OSError):  # a cache that is read-only serves all the same
            os.utime(path)  # when a study was last run is what `doit gc --older` goes by
