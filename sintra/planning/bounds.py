"""Bounds and expected sizes by arithmetic on a model's headers, before anything is built."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from sintra.config.study import Study
from sintra.core.artifact import Source
from sintra.core.judge import impossible_limit
from sintra.core.metrics import find_metric
from sintra.core.recipe import Recipe
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.formats.gguf.sizes import BLOCK_BITS, PRESET_BITS
from sintra.hardware.estimate.estimate import Shape, kv_bytes

MIN_BITS_PER_WEIGHT = 1.5625  # IQ1_S, the smallest type of llama.cpp


def count_weights(folder: Path) -> tuple[int, int]:
    """Count the elements of the matrices inside the blocks, and of all others.

    The shapes come from the headers of the folder's safetensors files.
    """
    inside = outside = 0
    for path in folder.glob("*.safetensors"):
        for name, tensor in read_safetensors_header(path).items():
            if len(tensor["shape"]) < 2:
                continue
            if ".layers." in name:
                inside += prod(tensor["shape"])
            else:
                outside += prod(tensor["shape"])
    return inside, outside


def expected_shape(recipe: Recipe, pin: Source) -> Shape | None:
    """Return roughly what a variant of a local model will be.

    None for a hub model, for a mix, and for a preset whose bits per weight are not published.
    """
    if pin.kind != "folder" or recipe.type not in PRESET_BITS or recipe.tensors:
        return None
    return quantized_shape(Path(pin.locator), PRESET_BITS[recipe.type], len(recipe.drop))


def quantized_shape(folder: Path, bits: float, dropped: int) -> Shape:
    """Return a model folder's shape with every matrix at the same number of bits per weight."""
    config = json.loads((folder / "config.json").read_text())
    inside, outside = count_weights(folder)
    layers, width, heads = (
        config.get(k, 1) for k in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    count = inside * max(0, layers - dropped) / layers + outside
    vocabulary = config.get("vocab_size", 0)
    return Shape(
        weight_bytes=int(count * bits / 8),
        embedding_bytes=int(vocabulary * width * bits / 8),
        tied=bool(config.get("tie_word_embeddings")),
        parameters=int(count),
        layers=max(0, layers - dropped),
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or width // heads,
        vocabulary=vocabulary,
    )


def infeasible_reason(study: Study, pin: Source) -> str | None:
    """Say why no variant can hold the limits, where a local model's headers show it."""
    if pin.kind != "folder":
        return None
    bounds = lower_bounds(study, Path(pin.locator))
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


def lower_bounds(study: Study, folder: Path) -> dict[str, float]:
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
    shape = quantized_shape(folder, bits, study.planner.max_dropped)
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
