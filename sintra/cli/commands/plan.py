"""`doit plan` and `doit why`: what the next run will do, and why a step has to be built.

The plan follows from the store, the recorded rounds and the planner; it changes nothing.
"""

from __future__ import annotations

import json
from typing import NotRequired, TypedDict

from sintra.build.explain import explain, typical_seconds
from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.cli.commands.model import brief_lines
from sintra.core import plugins
from sintra.core.artifact import Artifact
from sintra.core.errors import UserError, nearest
from sintra.core.format import PLANNED, format_of
from sintra.hardware.estimate.estimate import Shape
from sintra.hardware.estimate.runtimes import estimate_for_runtime
from sintra.planning.bounds import expected_shape
from sintra.store.store import Store
from sintra.study import round_files, rounds
from sintra.study.variant_names import readable_step, step_parts, study_names
from sintra.study.workspace import Workspace


class StepRow(TypedDict):
    """A step of the plan, as in the JSON."""

    step: str  # its name
    state: str  # "hit": the store has it; "build": it is to be built
    seconds: float | None  # the median of such steps here; None: not known, or nothing to build
    bytes: NotRequired[int | float | None]  # of a variant's file
    exact: NotRequired[bool]  # whether that is read from the file, not estimated
    device_tg_tps: NotRequired[float]  # estimated tokens/s of generation
    device_ram_bytes: NotRequired[float]  # estimated memory on the device, bytes


def print_plan(workspace: Workspace, format: str) -> None:
    """Print the plan as text or JSON. Raises UserError where the model or the board isn't known."""
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
    recorded = round_files.read_rounds(workspace)
    planned = plan_ahead(graph, workspace.store, recorded)
    rows, stop = step_rows(graph, workspace.store, planned), planned[-1].stop
    if format == "json":
        plan = {"study": workspace.study.id, "steps": rows, "rounds": len(recorded), "stop": stop}
        print(json.dumps(plan, indent=1))
        return
    for line in brief_lines(workspace):
        print(line)
    parts = step_parts(graph.study.model, study_names(graph, workspace.store, planned))
    for row in rows:
        step = readable_step(row["step"], parts)
        print(format_row({**row, "step": step}, graph.study.hardware.usable_bytes))
    print(summarize_rows(rows, stop))


def plan_ahead(
    graph: Graph, store: Store, recorded: list[round_files.Round]
) -> list[round_files.Round]:
    """Return the recorded rounds and those that follow from what the store already holds, up to the
    first that has to be built.
    """
    planned = list(recorded)
    while not planned or (
        not planned[-1].is_last
        and all(s.outcome(store) for s in rounds.round_steps(graph, planned[-1]))
    ):
        planned.append(rounds.next_round(graph, store, planned))
    return planned


def step_rows(graph: Graph, store: Store, planned: list[round_files.Round]) -> list[StepRow]:
    """Return a row for each step of the rounds."""
    steps = {s.name: s for r in planned for s in rounds.round_steps(graph, r)}
    shapes = {
        graph.quantize(p.recipe).name: expected_shape(p.recipe, graph.source)
        for r in planned
        for p in r.proposals
    }
    usual_s = typical_seconds(store)
    return [
        step_row(graph, step, store, usual_s.get(step.stage), shapes.get(step.name))
        for step in steps.values()
    ]


def step_row(
    graph: Graph, step: Step, store: Store, usual_s: float | None, shape: Shape | None
) -> StepRow:
    """Return the row of a step.

    A variant has its size, speed and memory on the device: from its file where there is one
    (`exact`), else from the usual shape of such a preset.
    """
    outcome = step.outcome(store)
    to_build = outcome is None
    row: StepRow = {
        "step": step.name,
        "state": "build" if to_build else "hit",
        "seconds": round(usual_s, 3) if usual_s is not None and to_build else None,
    }
    if step.stage not in ("quantize", "assemble", *plugins.own_names("formats")):
        return row
    size: int | float | None = shape.weight_bytes if shape else None
    if isinstance(outcome, Artifact):
        shape = Shape.of(store.read_json(outcome, "layout.json"))
        size = outcome.model.size
    if shape is None:
        return row
    made_by = step.stage if plugins.has("formats", step.stage) else PLANNED
    runtime = format_of(made_by).runtime
    study = graph.study
    estimates = estimate_for_runtime(
        shape, study.hardware, study.context, "f16", runtime, study.depth
    )
    row["bytes"], row["exact"] = size, not to_build
    return row | {m.metric: m.value for m in estimates}  # type: ignore[return-value]


def format_row(row: StepRow, usable_bytes: int) -> str:
    """Return a row in 80 columns. `usable_bytes`: the device's memory for the model."""
    duration = f"{row['seconds']:.1f} s" if row["seconds"] is not None else ""
    variant = ""
    if size := row.get("bytes"):
        about = "" if row["exact"] else "~"
        fits = "fits" if row["device_ram_bytes"] <= usable_bytes else "too large"
        variant = f"{about}{size / 1e6:.2f} MB, {row['device_tg_tps']:.3g} tok/s, {fits}"
    return f"{row['state']:<6}{row['step']:<36}{duration:>8}  {variant}".rstrip()


def summarize_rows(rows: list[StepRow], stop: str | None) -> str:
    """Return how much is to be built, how long that takes, and what comes after it, in a line."""
    to_build = [row for row in rows if row["state"] == "build"]
    seconds = [row["seconds"] for row in to_build if row["seconds"] is not None]
    duration = ""
    if seconds:
        duration = f", about {sum(seconds):.0f} s where known"
    elif to_build:
        duration = ", of unknown duration"
    after = stop or "later rounds depend on what these measure"
    return f"{len(to_build)} to build, {len(rows) - len(to_build)} there{duration}; {after}"


def explain_steps(workspace: Workspace, steps: list[str]) -> None:
    """Print why steps are up to date or not; all recorded steps unless some are named.

    A step goes by the name of its task, or by the name that is shown of it.

    Raises UserError for an unknown name, or where nothing is recorded.
    """
    graph = workspace.graph()
    planned = round_files.read_rounds(workspace)
    recorded = {s.name: s for r in planned for s in rounds.round_steps(graph, r)}
    parts = step_parts(graph.study.model, study_names(graph, workspace.store, planned))
    names = {readable_step(name, parts): name for name in recorded}
    if not recorded:
        raise UserError(
            "nothing is recorded for this study yet: run `doit plan` with the same options"
        )
    for name in [names.get(step, step) for step in steps] or sorted(recorded):
        if name not in recorded:
            raise UserError(f"this study has no step {name!r}: {nearest(name, names)}")
        words = explain(recorded[name], workspace.store)
        print(readable_step(f"{name}: {words}", parts))
