"""What a study's report says, gathered from its folder in outputs/ and, where the cache still has
it, from the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.config.options import unnamed
from sintra.core.errors import UserError, nearest
from sintra.core.types import Artifact, Hardware
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.estimate import RUNTIME_BYTES, Shape, compute_bytes, kv_bytes
from sintra.planning.llm.budget import bare
from sintra.results.finished import Delivered
from sintra.results.pages import report
from sintra.results.pages.tensor_map import anatomy
from sintra.results.pages.words import discreet
from sintra.store.files import write_atomic
from sintra.study.workspace import Workspace, open_workspace

MINUTES = 15
Row = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A study's folder, read. place is None where its options can't be opened any more, and missing
    says why.
    """

    folder: Path
    result: Row
    rounds: list[Row]
    manifest: Row
    workspace: Workspace | None
    missing: str


def write(root: Path, study: str, workspace: Workspace | None = None) -> Path:
    """Make outputs/<study>/report.html. Raises UserError where there is no such result."""
    told = read(root, study, workspace)
    path = told.folder / "report.html"
    write_atomic(path, report.page(account(root, told)))
    return path


def read(root: Path, study: str, workspace: Workspace | None = None) -> Told:
    """Open a folder of outputs/. Raises UserError with the nearest name."""
    folder = root / "outputs" / study
    if "/" in study or not (folder / "result.json").is_file():
        known = sorted(
            p.name for p in (root / "outputs").glob("*") if (p / "result.json").is_file()
        )
        hint = f": {nearest(study, known)}" if known else ": run `doit optimize hardware=...` first"
        raise UserError(f"outputs/{study} holds no result{hint}")
    result, rounds, manifest = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("result", "rounds", "manifest")
    )
    missing = ""
    if workspace is None:
        workspace, missing = reopened(root, manifest["overrides"], result["study"])
    return Told(folder.resolve(), result, rounds, manifest, workspace, missing)


def reopened(root: Path, overrides: list[str], study: str) -> tuple[Workspace | None, str]:
    """The study's workspace, or why it can't be had: its model, texts or options are no longer what
    they were.
    """
    try:
        workspace = open_workspace(root, overrides)
    except UserError as error:
        return None, str(error)
    if workspace.study.id != study or workspace.pinned() is None:
        return None, "the model, a text or an option is no longer what it was"
    return workspace, ""


def account(root: Path, told: Told) -> Row:
    """Everything that the page shows, as plain values."""
    result, workspace = told.result, told.workspace
    done = Delivered(told.folder, result, workspace) if workspace and result["winner"] else None
    hardware = workspace.study.hardware if workspace else None
    shapes = layouts(done) if done else {}
    return {
        "result": result,
        "rounds": told.rounds,
        "manifest": told.manifest,
        "missing": discreet(told.missing),
        "device": hardware.title if hardware else result["hardware"],
        "profile": profile(hardware) if hardware else [],
        "command": command(root, told.manifest["overrides"]),
        "bare_command": command(root, unplanned(told.manifest)),
        "version": __version__,
        "anatomy": pictured(done),
        "original_bytes": original_bytes(done) if done else None,
        "memory": memory(done, shapes) if done else None,
        "usable_bytes": hardware.usable_bytes if hardware else None,
        "heat": heat(hardware, result) if hardware and result["winner"] else None,
        "probe": unnamed(workspace.study.probe) if workspace else None,
    }


def command(root: Path, overrides: list[str]) -> str:
    """What makes the study again, typed in the project's folder; folders elsewhere and secrets are
    left out.
    """
    return " ".join(["doit optimize", *(quoted(shown(root, o)) for o in overrides)])


def unplanned(manifest: Row) -> list[str]:
    """The study's options without those of its planner."""
    return [o for o in manifest["overrides"] if not o.startswith("planner")]


def shown(root: Path, override: str) -> str:
    """An override as others may see it."""
    key, _, value = override.partition("=")
    if "://" in value:
        return f"{key}={bare(value)}"
    return discreet(f"{key}={value}".replace(f"{root.resolve()}/", ""))


def quoted(text: str) -> str:
    """For a shell."""
    return f"'{text}'" if any(c in text for c in ' []{}()*?$&;|<>#"') else text


def profile(device: Hardware) -> list[tuple[str, str]]:
    """The device in a few lines."""
    usable = f"{device.usable_bytes / 2**30:g} GiB ({device.usable_bytes / 1e9:.2f} GB) usable"
    rows = [
        ("processor", f"{device.cores} cores, {device.isa}"),
        ("backend", device.backend),
        ("memory", f"{device.ram_bytes / 2**30:g} GiB, of which {usable}"),
        ("bandwidth", f"{device.bandwidth / 1e9:g} GB/s"),
    ]
    return [(k, v) for k, v in rows if v.strip(", ")]


def pictured(done: Delivered | None) -> Row | None:
    """The tensor map, where it can be had without building anything."""
    if done is None or done.recipe.format != "gguf" or not cached(done):
        return None
    try:
        return anatomy(done, lambda text: None)
    except UserError:
        return None


def cached(done: Delivered) -> bool:
    """Whether the store has the winner and its original."""
    return all(
        isinstance(s.outcome(done.store), Artifact)
        for s in (done.graph.convert(), done.graph.quantize(done.recipe))
    )


def original_bytes(done: Delivered) -> int | None:
    """The size of the 16-bit GGUF."""
    made = done.graph.convert().outcome(done.store)
    return made.model.size if isinstance(made, Artifact) else None


def layouts(done: Delivered) -> dict[str, Shape]:
    """Name -> shape of the original and of the winner, where the store has them."""
    found = {}
    for name, step in (
        ("16-bit original", done.graph.convert()),
        ("this result", done.graph.quantize(done.recipe)),
    ):
        made = step.outcome(done.store)
        if isinstance(made, Artifact):
            found[name] = Shape.of(done.store.read_json(made, "layout.json"))
    return found


def memory(done: Delivered, shapes: dict[str, Shape]) -> list[Row] | None:
    """MB by part, by the same formula that the limit is judged with."""
    context, kv = done.workspace.study.probe.context, done.recipe.kv
    return [
        {
            "name": name,
            "weights": s.weight_bytes / 1e6,
            "compute buffer": compute_bytes(s, context) / 1e6,
            "KV cache": kv_bytes(s, context, kv if name == "this result" else "f16") / 1e6,
            "runtime": RUNTIME_BYTES / 1e6,
        }
        for name, s in shapes.items()
    ] or None


def heat(device: Hardware, result: Row) -> Row | None:
    """A quarter of an hour under full load, simulated, in steps of 15 s; None where the profile
    says too little of heat.
    """
    if not thermal.is_complete(device.thermal):
        return None
    numbers = {m["metric"]: m["value"] for m in result["winner"]["measurements"]}
    full = numbers.get("device_tg_tps")
    if full is None:
        return None
    model = thermal.thermal_model(device.thermal, device.name)
    samples = thermal.simulate_run(model, MINUTES * 60 + 1)
    rows = [
        {"minutes": s.t / 60, "chip": s.chip, "case": s.case, "tps": s.speed * full}
        for s in samples[::15]
    ]
    return {
        "rows": rows,
        "burst": thermal.mean_speed(samples, 0, thermal.BURST_S) * full,
        "sustained": thermal.sustained_speed(model) * full,
        "hottest": max(s.chip for s in samples),
    }
