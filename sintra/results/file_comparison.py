"""Measure files from elsewhere against a model in 16 bits, beside the nearest stock presets.

The baseline and the presets are a study's own steps, so that nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core import lazy
from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.core.text import printable_line
from sintra.core.types import Measurement
from sintra.formats.gguf.description import GgufDescription
from sintra.formats.gguf.layout import Layout
from sintra.formats.gguf.sizes import matrices_of_layout, matrix_bytes
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.results.finished import build_artifact
from sintra.study import pinning
from sintra.study.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

RESAMPLES = 1000  # of the bootstrap over windows
LEVEL = "report"  # the text that numbers are told of
CLEAR = 2.0  # standard errors from which a difference counts
STOCK = "llama.cpp "  # before a preset's name


@dataclass(frozen=True)
class MeasuredFile:
    """A file, or a stock preset, with its distance from the model in 16 bits."""

    name: str
    bytes: int  # of the file
    kld: float  # mean KL divergence on the report text, nats
    kld_error: float  # its standard error
    same_top: float  # share of positions with the same first token, 0 to 1
    same_top_error: float
    windows: tuple[float, ...]  # mean KL divergence in each window, nats
    stock: bool  # whether it is a preset of llama.cpp's, rounded to nearest

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON, without the windows."""
        return {name: value for name, value in asdict(self).items() if name != "windows"}


def measure_files(
    workspace: Workspace, files: Sequence[GgufDescription], say: Callable[[str], None]
) -> list[MeasuredFile]:
    """Measure files and the stock presets around their sizes, by size.

    Raises UserError where a file can't be a form of the model, or a step fails.
    """
    if workspace.pinned() is None:
        raise UserError(
            f"{workspace.study.model} hasn't been downloaded: run `doit optimize` first, or give "
            "a folder"
        )
    graph = workspace.graph()
    original = build_artifact(workspace, graph.convert(), say)
    layout: Layout = workspace.store.read_json(original, "layout.json")
    for file in files:
        refuse_other_model(file, layout, workspace.study.model)
    rows = [measure_file(workspace, graph, file, say) for file in files]
    for preset in presets_around([f.weight_bytes for f in files], preset_sizes(layout)):
        rows.append(measure_preset(workspace, graph, preset, say))
    return sorted(rows, key=lambda row: row.bytes)


def refuse_other_model(file: GgufDescription, layout: Layout, model: str) -> None:
    """Raise UserError where a file can't be a form of the model: its predictions are of others."""
    own, tokens = layout["architecture"], layout["shape"]["vocabulary"]
    width = file.metadata.get(f"{file.architecture}.embedding_length")
    if file.architecture != own:
        raise UserError(f"{file.file} is a {file.architecture}, {model} a {own}: not the same")
    if file.tokenizer.tokens and file.tokenizer.tokens != tokens:
        raise UserError(
            f"{file.file} has {file.tokenizer.tokens} tokens, {model} {tokens}: not the same model"
        )
    if width != layout["shape"]["width"]:
        raise UserError(
            f"{file.file} is {width} wide, {model} {layout['shape']['width']}: not the same model"
        )


def preset_sizes(layout: Layout) -> dict[str, int]:
    """Return stock preset -> bytes of its tensors, as llama.cpp's dry run chose their types."""
    sizes = {}
    for preset, types in layout.get("presets", {}).items():
        tensors = [[t[0], types.get(t[0], t[1]), t[2], t[3]] for t in layout["tensors"]]
        matrices = matrices_of_layout({"tensors": tensors})
        named = {m.name for m in matrices}
        rest = sum(t[2] for t in tensors if t[0] not in named)
        sizes[preset] = rest + sum(matrix_bytes(m, types[m.name]) for m in matrices)
    return sizes


def presets_around(sizes: Iterable[int], presets: Mapping[str, int]) -> list[str]:
    """Return the stock presets next below and next above each size, the smallest first.

    sizes: bytes of all tensors of a file, as those of the presets.
    """
    order = sorted(presets, key=lambda name: presets[name])
    chosen = set()
    for size in sizes:
        below = [name for name in order if presets[name] <= size]
        above = [name for name in order if presets[name] > size]
        chosen |= {*below[-1:], *above[:1]}
    return [name for name in order if name in chosen]


def measure_file(
    workspace: Workspace, graph: Graph, file: GgufDescription, say: Callable[[str], None]
) -> MeasuredFile:
    """Measure a file from elsewhere. Raises UserError where it can't be run."""
    pin = pinning.pin_gguf(file.path, workspace.digests, requantize=True)
    label = f"{workspace.study.model}-{file_label(file.path)}-{pin.digest[:8]}"
    fetched = graph.import_step(pin, label)
    params = {"seed": graph.study.seed}
    inputs = {"gguf": fetched, "baseline": graph.baseline(LEVEL)}
    quality = graph.step("quality", f"{label}-{LEVEL}", params, inputs)
    artifact = build_artifact(workspace, quality, say)
    return measured_file(workspace, artifact, file.file, file.bytes, stock=False)


def file_label(path: Path) -> str:
    """Return a file's name as a step's name can have it."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in path.stem)[:60]


def measure_preset(
    workspace: Workspace, graph: Graph, preset: str, say: Callable[[str], None]
) -> MeasuredFile:
    """Measure a stock preset as llama-quantize makes it, without an importance matrix."""
    quality: Step | None = graph.variant(Recipe(preset), LEVEL).quality
    assert quality is not None
    artifact = build_artifact(workspace, quality, say)
    made = graph.quantize(Recipe(preset)).outcome(workspace.store)
    assert isinstance(made, Artifact)
    return measured_file(workspace, artifact, STOCK + preset, made.model.size, stock=True)


def measured_file(
    workspace: Workspace, quality: Artifact, name: str, size: int, stock: bool
) -> MeasuredFile:
    """Read what the quality probe left behind."""
    data = workspace.store.read_json(quality, MEASUREMENTS_FILE)
    rows: dict[str, Measurement] = {m.metric: m for m in parse_measurements(data)}
    kld, top = rows["kld_mean"], rows["same_top"]
    digest = next(file.sha256 for file in quality.files if file.path == "kld.npy")
    means = np.load(workspace.store.blob_path(digest)).astype(np.float64).mean(1)
    return MeasuredFile(
        printable_line(name, 80),
        size,
        kld.value,
        kld.stderr or 0.0,
        top.value,
        top.stderr or 0.0,
        tuple(map(float, means)),
        stock,
    )


def difference(first: MeasuredFile, second: MeasuredFile, seed: int = 0) -> tuple[float, float]:
    """Return the first's mean KL divergence less the second's and its standard error, nats.

    Paired: both saw the same windows, of which the error is bootstrapped.
    """
    gaps: NDArray[np.float64] = np.array(first.windows) - np.array(second.windows)
    draws = np.random.default_rng(seed).integers(0, len(gaps), (RESAMPLES, len(gaps)))
    return float(gaps.mean()), float(gaps[draws].mean(1).std(ddof=1))


def beaten_by(row: MeasuredFile, rows: Iterable[MeasuredFile]) -> MeasuredFile | None:
    """Return the best of what is no larger than a file and clearly nearer to the original."""
    better = []
    for other in rows:
        if other is row or other.bytes > row.bytes:
            continue
        gap, error = difference(row, other)
        if gap > CLEAR * error and gap > 0:
            better.append(other)
    return min(better, key=lambda other: other.kld, default=None)
