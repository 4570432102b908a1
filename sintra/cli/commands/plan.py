"""`doit plan`: what the next run will do, from the store, the recorded rounds and the planner's
next word; changes nothing.
"""

from __future__ import annotations

import json
from typing import Any

from sintra.build.explain import typical_seconds
from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.format import format_of
from sintra.core.types import Artifact
from sintra.hardware.estimate.estimate import Shape
from sintra.hardware.estimate.runtimes import estimate_for_runtime
from sintra.planning.bounds import expected_shape
from sintra.store.store import Store
from sintra.study import round_files, rounds
from sintra.study.workspace import Workspace

Row = dict[str, Any]


def show(workspace: Workspace, format: str) -> None:
    """Print the plan as text or JSON."""
    if workspace.pinned() is None:
        raise UserError(
            f"{workspace.study.model} hasn't been pinned yet, which needs the hub: run `doit "
            "optimize` first"
        )
    if not workspace.ready:
        raise UserError(
            f"{workspace.config.device.host} hasn't been asked yet what it is: run `doit "
            "optimize` first"
        )
    graph = workspace.graph()
    known = round_files.recorded(workspace)
    given = foreseen(graph, workspace.store, known)
    rows, stop = table(graph, workspace.store, given), given[-1]["stop"]
    if format == "json":
        print(
            json.dumps(
                {"study": workspace.study.id, "steps": rows, "rounds": len(known), "stop": stop},
                indent=1,
            )
        )
        return
    for row in rows:
        print(text(row, graph.study.hardware.usable_bytes))
    left = [r for r in rows if r["state"] == "build"]
    times = [r["seconds"] for r in left if r["seconds"] is not None]
    after = stop or "later rounds depend on what these measure"
    took = (
        f", about {sum(times):.0f} s where known"
        if times
        else ", of unknown duration"
        if left
        else ""
    )
    print(f"{len(left)} to build, {len(rows) - len(left)} there{took}; {after}")


def foreseen(graph: Graph, store: Store, known: list[round_files.Round]) -> list[round_files.Round]:
    """The recorded rounds and those that follow from what the store already holds, up to the first
    that has to be built.
    """
    given = list(known)
    while not given or (
        given[-1]["stop"] is None
        and all(s.outcome(store) for s in rounds.steps_of(graph, given[-1]))
    ):
        given.append(rounds.next_round(graph, store, given))
    return given


def table(graph: Graph, store: Store, given: list[round_files.Round]) -> list[Row]:
    """A row for each step of the rounds."""
    steps = {s.name: s for r in given for s in rounds.steps_of(graph, r)}
    shapes = {
        graph.quantize(p.recipe).name: expected_shape(p.recipe, graph.source)
        for r in given
        for p in round_files.proposals(r)
    }
    times = typical_seconds(store)
    return [
        line(graph, step, store, times.get(step.stage), shapes.get(step.name))
        for step in steps.values()
    ]


def line(graph: Graph, step: Step, store: Store, time: float | None, expected: Shape | None) -> Row:
    """A step: hit or build, the median time of such steps, and a variant's size, speed and memory
    on the device, from its file where there is one (`exact`), else from what such a preset usually
    comes to.
    """
    outcome = step.outcome(store)
    row: Row = {"step": step.name, "state": "build" if outcome is None else "hit"}
    row["seconds"] = round(time, 3) if time is not None and outcome is None else None
    if step.stage not in ("quantize", "assemble", *plugins.names("formats")):
        return row
    size: float | None = expected.weight_bytes if expected else None
    if isinstance(outcome, Artifact):
        expected = Shape.of(store.read_json(outcome, "layout.json"))
        size = outcome.model.size
    if expected is not None:
        runtime = (
            format_of(step.stage).runtime if plugins.has("formats", step.stage) else "llama.cpp"
        )
        rows = estimate_for_runtime(
            expected, graph.study.hardware, graph.study.probe.context, "f16", runtime
        )
        found = {m.metric: m.value for m in rows}
        row |= {"bytes": size, "exact": outcome is not None} | found
    return row


def text(row: Row, usable: int) -> str:
    """A row in 80 columns."""
    guess = f"{row['seconds']:.1f} s" if row["seconds"] is not None else ""
    fit = ""
    if row.get("bytes"):
        about = "" if row["exact"] else "~"
        room = "fits" if row["device_ram_bytes"] <= usable else "too large"
        fit = f"{about}{row['bytes'] / 1e6:.2f} MB, {row['device_tg_tps']:.3g} tok/s, {room}"
    return f"{row['state']:<6}{row['step']:<36}{guess:>8}  {fit}".rstrip()
