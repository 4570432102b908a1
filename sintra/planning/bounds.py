"""Bounds and expected sizes by arithmetic on a model's headers, before anything is built."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.config.study import Study
from sintra.core import lazy
from sintra.core.artifact import Source
from sintra.core.judge import impossible_limit
from sintra.core.metrics import find_metric
from sintra.core.recipe import Recipe
from sintra.formats.checkpoint.config_values import text_part, whole
from sintra.formats.checkpoint.folder import weight_files
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.model_kind import SENSES, is_tied
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.formats.gguf.layout import Layout, read_layout
from sintra.formats.gguf.sizes import BLOCK_BITS, PRESET_BITS
from sintra.hardware.estimate.estimate import Shape, kv_bytes

if TYPE_CHECKING:
    from sintra.hardware.estimate import architecture
else:  # the no-op path doesn't need it
    architecture = lazy.module("sintra.hardware.estimate.architecture")

TINY = 50_000_000  # weights of a model that is no real one: its files are there at once
MIN_BITS_PER_WEIGHT = 1.5625  # IQ1_S, the smallest type of llama.cpp


def count_weights(folder: Path) -> tuple[int, int]:
    """Count the elements of the matrices inside the blocks, and of all others.

    The shapes come from the headers of the folder's safetensors files.
    """
    inside = outside = 0
    for name, shape in folder_matrices(folder):
        if ".layers." in name:
            inside += prod(shape)
        else:
            outside += prod(shape)
    return inside, outside


def folder_matrices(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of the language model's matrices in a folder, the row's length last.

    A second copy of a tied embedding isn't among them.
    """
    tied = is_tied(read_object(folder / "config.json"))
    for path in weight_files(folder):
        for name, tensor in read_safetensors_header(path).items():
            copy = tied and name.endswith("lm_head.weight")
            if len(tensor["shape"]) > 1 and not copy and not SENSES.search(name):
                yield name, tensor["shape"]


def weights_by_columns(pin: Source) -> dict[int, int]:
    """Return row length -> weights of the matrices that have it; empty for a hub model."""
    counts: Counter[int] = Counter()
    if pin.kind == "gguf":
        for _, _, _, sides in _read_layout(Path(pin.locator))["tensors"]:
            if len(sides) > 1:
                counts[sides[0]] += prod(sides)
    elif pin.kind == "folder":
        for _, shape in folder_matrices(Path(pin.locator)):
            counts[shape[-1]] += prod(shape)
    return dict(counts)


def expected_shape(recipe: Recipe, pin: Source) -> Shape | None:
    """Return roughly what a variant of a local model will be.

    None for a hub model, for a mix, and for a preset whose bits per weight are not published.
    """
    if not is_local(pin) or recipe.type not in PRESET_BITS or recipe.tensors:
        return None
    return quantized_shape(pin, PRESET_BITS[recipe.type], len(recipe.drop))


def is_local(pin: Source) -> bool:
    """Return whether a model's headers can be read before anything is built."""
    return pin.kind in ("folder", "gguf")


def quantized_shape(pin: Source, bits: float, dropped: int) -> Shape:
    """Return a local model's shape with every matrix at the same number of bits per weight."""
    path = Path(pin.locator)
    return (gguf_shape if pin.kind == "gguf" else folder_shape)(path, bits, dropped)


def gguf_shape(path: Path, bits: float, dropped: int) -> Shape:
    """Return the shape of the model in a GGUF, as `quantized_shape` does."""
    layout = _read_layout(path)
    sizes = [(name, prod(sides)) for name, _, _, sides in layout["tensors"] if len(sides) > 1]
    inside = sum(size for name, size in sizes if name.startswith("blk."))
    outside = sum(size for name, size in sizes if not name.startswith("blk."))
    shape = replace(Shape.of(layout), slow_bytes=0.0, k_bytes=0.0, types=())
    return at_bits(shape, inside, outside, bits, dropped)


@functools.cache
def _read_layout(path: Path) -> Layout:
    """Read a GGUF's layout once: a plan asks for it per variant."""
    return read_layout(path)


def at_bits(shape: Shape, inside: int, outside: int, bits: float, dropped: int) -> Shape:
    """Return a shape with every matrix at so many bits per weight, without the dropped blocks.

    inside, outside: weights of matrices inside and outside the blocks.
    """
    layers = max(0, shape.layers - dropped)
    count = inside * layers / shape.layers + outside
    return replace(
        shape,
        weight_bytes=int(count * bits / 8),
        embedding_bytes=int(shape.vocabulary * shape.width * bits / 8),
        parameters=int(count),
        layers=layers,
    )


def folder_shape(folder: Path, bits: float, dropped: int) -> Shape:
    """Return the shape of the model in a folder, as `quantized_shape` does."""
    everything = read_object(folder / "config.json")
    config = text_part(everything)
    inside, outside = count_weights(folder)
    layers, width, heads = (
        whole(config, k, 1) for k in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    window, windowed = architecture.sliding_layers(config, layers)
    shape = Shape(
        weight_bytes=0,
        embedding_bytes=0,
        tied=is_tied(everything),
        parameters=0,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads", heads),
        head_dim=whole(config, "head_dim", width // heads),
        vocabulary=whole(config, "vocab_size"),
        window=window,
        windowed=windowed,
    )
    return at_bits(shape, inside, outside, bits, dropped)


def infeasible_reason(study: Study, pin: Source) -> str | None:
    """Say why no variant can hold the limits, where a local model's headers show it."""
    if not is_local(pin):
        return None
    bounds = lower_bounds(study, pin)
    broken = impossible_limit(study.goal, bounds)
    if broken is None:
        return None
    limit, best = broken
    return (
        f"infeasible: {limit.option} asks for {limit.metric} {limit.op} "
        f"{in_units(limit.metric, limit.limit)}, and no variant can do better than "
        f"{in_units(limit.metric, best)}"
    )


def in_units(metric: str, value: float) -> str:
    """Write a metric's value in the unit that its option has, such as 2.48 MB."""
    row = find_metric(metric)
    if row is None:
        return f"{value:.4g}"
    unit = row.option_unit or row.unit.removeprefix("1")
    return f"{value / row.option_scale:.4g} {unit}".rstrip()


def lower_bounds(study: Study, pin: Source) -> dict[str, float]:
    """Return the best size, memory and decode speed that any of the planner's recipes could reach.

    They follow from the tensors' shapes: bytes, bytes, tokens/s. Where a board is measured, only
    the size: its memory and speed are not argued about but asked for.
    """
    bits = min(
        (BLOCK_BITS.get(t, MIN_BITS_PER_WEIGHT) for t in study.planner.types or []),
        default=MIN_BITS_PER_WEIGHT,
    )
    if study.formats != ("gguf",):
        bits = min(bits, study.compress.bits)
    shape = quantized_shape(pin, bits, study.planner.max_dropped)
    if study.on_board:
        return {"size_bytes": shape.weight_bytes}
    device = study.hardware
    read_bytes = max(1, shape.weight_bytes - (0 if shape.tied else shape.embedding_bytes))
    return {
        "size_bytes": shape.weight_bytes,
        "device_ram_bytes": shape.weight_bytes
        + kv_bytes(shape, study.probe.context)
        + device.runtime_bytes,
        "device_tg_tps": device.efficiency * device.bandwidth / read_bytes,
    }
