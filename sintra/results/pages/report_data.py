"""Collect what a study's report shows: from its folder in outputs/ and, where the cache still has
it, from the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sintra.core.artifact import Artifact
from sintra.core.errors import UserError, nearest
from sintra.core.types import Hardware
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.estimate import RUNTIME_BYTES, Shape, compute_bytes, kv_bytes
from sintra.results.finished import FinishedStudy
from sintra.results.pages.charts import HeatSample, MemoryBar
from sintra.results.pages.command_lines import optimize_command, without_planner
from sintra.results.pages.tensor_map import TensorMap, read_tensor_map
from sintra.results.pages.words import hide_folders
from sintra.study.json_types import CandidateJson, ManifestJson, ResultJson, RoundJson
from sintra.study.result_upgrade import name_proposals, parse_result
from sintra.study.workspace import Workspace, open_workspace

HEAT_MINUTES = 15  # how long the full load is simulated
HEAT_STEP_S = 15  # between two samples of the plot
ORIGINAL, RESULT = "16-bit original", "this result"


@dataclass(frozen=True)
class ReportSource:
    """A study's folder in outputs/, read."""

    folder: Path
    result: ResultJson  # result.json
    rounds: list[RoundJson]  # rounds.json
    manifest: ManifestJson  # manifest.json
    workspace: Workspace | None  # None where the study's options can't be opened any more
    missing: str  # why there is no workspace; "" where there is one


@dataclass(frozen=True)
class HeatCurve:
    """A quarter of an hour under full load, simulated."""

    samples: list[HeatSample]
    burst: float  # tokens/s in the first minute
    sustained: float  # tokens/s once as much heat leaves as comes in
    hottest: float  # highest temperature of the chip, degrees Celsius


@dataclass(frozen=True)
class ReportData:
    """All that the report shows, as plain values; None where it is not known."""

    result: ResultJson
    rounds: list[RoundJson]
    manifest: ManifestJson
    missing: str  # why the study can't be opened any more, without folders; "" where it can
    device: str  # the device's title
    profile: list[tuple[str, str]]  # the device in a few lines: (property, value)
    command: str  # makes the study again
    planless_command: str  # the same without the options of the planner
    tensor_map: TensorMap | None
    original_bytes: int | None  # size of the 16-bit GGUF
    memory: list[MemoryBar] | None
    usable_bytes: int | None  # the device's memory for models
    heat: HeatCurve | None


def read_source(root: Path, study: str, workspace: Workspace | None = None) -> ReportSource:
    """Read a folder of outputs/. Raises UserError with the nearest name where there is none."""
    folder = root / "outputs" / study
    if "/" in study or not (folder / "result.json").is_file():
        studies = sorted(
            p.name for p in (root / "outputs").glob("*") if (p / "result.json").is_file()
        )
        hint = (
            f": {nearest(study, studies)}"
            if studies
            else ": run `doit optimize hardware=...` first"
        )
        raise UserError(f"outputs/{study} holds no result{hint}")
    result = parse_result((folder / "result.json").read_text())
    rounds, manifest = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("rounds", "manifest")
    )
    name_proposals(rounds, result)
    missing = ""
    if workspace is None:
        workspace, missing = reopen_workspace(root, manifest["overrides"], result["study"])
    return ReportSource(folder.resolve(), result, rounds, manifest, workspace, missing)


def reopen_workspace(root: Path, overrides: list[str], study: str) -> tuple[Workspace | None, str]:
    """Open a study's workspace, or return why its model, texts or options have changed."""
    try:
        workspace = open_workspace(root, overrides)
    except UserError as error:
        return None, str(error)
    if workspace.study.id != study or workspace.pinned() is None:
        return None, "the model, a text or an option is no longer what it was"
    return workspace, ""


def collect_report_data(root: Path, source: ReportSource) -> ReportData:
    """Collect everything that the report shows, without building anything."""
    result, workspace = source.result, source.workspace
    done = (
        FinishedStudy(source.folder, result, workspace) if workspace and result["winner"] else None
    )
    hardware = workspace.study.hardware if workspace else None
    overrides = source.manifest["overrides"]
    return ReportData(
        result=result,
        rounds=source.rounds,
        manifest=source.manifest,
        missing=hide_folders(source.missing),
        device=hardware.title if hardware else result["hardware"],
        profile=describe_hardware(hardware) if hardware else [],
        command=optimize_command(root, overrides),
        planless_command=optimize_command(root, without_planner(overrides)),
        tensor_map=cached_tensor_map(done) if done else None,
        original_bytes=original_bytes(done) if done else None,
        memory=memory_bars(done) if done else None,
        usable_bytes=hardware.usable_bytes if hardware else None,
        heat=heat_curve(hardware, result["winner"]) if hardware and result["winner"] else None,
    )


def describe_hardware(hardware: Hardware) -> list[tuple[str, str]]:
    """Return the device in a few lines, as (property, value)."""
    usable = f"{hardware.usable_bytes / 2**30:g} GiB ({hardware.usable_bytes / 1e9:.2f} GB) usable"
    lines = [
        ("processor", f"{hardware.cores} cores, {hardware.isa}"),
        ("backend", hardware.backend),
        ("memory", f"{hardware.ram_bytes / 2**30:g} GiB, of which {usable}"),
        ("bandwidth", f"{hardware.bandwidth / 1e9:g} GB/s"),
    ]
    return [(name, value) for name, value in lines if value.strip(", ")]


def cached_tensor_map(done: FinishedStudy) -> TensorMap | None:
    """Return the tensor map, where it can be had without building anything."""
    if done.recipe.format != "gguf" or not has_models(done):
        return None
    try:
        return read_tensor_map(done, lambda line: None)
    except UserError:
        return None


def has_models(done: FinishedStudy) -> bool:
    """Return whether the store has the winner and its original."""
    return all(
        isinstance(step.outcome(done.store), Artifact)
        for step in (done.graph.convert(), done.graph.quantize(done.recipe))
    )


def original_bytes(done: FinishedStudy) -> int | None:
    """Return the size of the 16-bit GGUF, where the store has it."""
    outcome = done.graph.convert().outcome(done.store)
    return outcome.model.size if isinstance(outcome, Artifact) else None


def memory_bars(done: FinishedStudy) -> list[MemoryBar] | None:
    """Return the memory of the original and of the winner, by the same formula that the limit is
    judged with; None where the store has neither.
    """
    context = done.workspace.study.context
    models = (
        (ORIGINAL, done.graph.convert(), "f16"),
        (RESULT, done.graph.quantize(done.recipe), done.recipe.kv),
    )
    bars = []
    for name, step, kv in models:
        outcome = step.outcome(done.store)
        if isinstance(outcome, Artifact):
            shape = Shape.of(done.store.read_json(outcome, "layout.json"))
            bars.append(MemoryBar(name, memory_parts(shape, context, kv)))
    return bars or None


def memory_parts(shape: Shape, context: int, kv: str) -> dict[str, float]:
    """Estimate the memory of a model by part, MB. context: tokens; kv: type of the KV cache."""
    return {
        "weights": shape.weight_bytes / 1e6,
        "compute buffer": compute_bytes(shape, context) / 1e6,
        "KV cache": kv_bytes(shape, context, kv) / 1e6,
        "runtime": RUNTIME_BYTES / 1e6,
    }


def heat_curve(hardware: Hardware, winner: CandidateJson) -> HeatCurve | None:
    """Simulate a quarter of an hour under full load; None where the profile has no thermal
    parameters or the winner no speed.
    """
    if not thermal.is_complete(hardware.thermal):
        return None
    values = {m["metric"]: m["value"] for m in winner["measurements"]}
    full_tps = values.get("device_tg_tps")
    if full_tps is None:
        return None
    parameters = thermal.thermal_model(hardware.thermal, hardware.name)
    samples = thermal.simulate_run(parameters, HEAT_MINUTES * 60 + 1)  # one a second
    return HeatCurve(
        samples=[
            HeatSample(minutes=s.t / 60, chip=s.chip, case=s.case, tps=s.speed * full_tps)
            for s in samples[::HEAT_STEP_S]
        ],
        burst=thermal.mean_speed(samples, 0, thermal.BURST_S) * full_tps,
        sustained=thermal.sustained_speed(parameters) * full_tps,
        hottest=max(s.chip for s in samples),
    )
