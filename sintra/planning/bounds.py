"""What arithmetic on a model's headers shows before anything is built: bounds, and sizes to expect."""

from __future__ import annotations

import json
from pathlib import Path

from sintra.config.study import Study
from sintra.core.judge import impossible
from sintra.core.recipe import Recipe
from sintra.core.types import Source
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.formats.gguf.sizes import BLOCK_BITS, PRESET_BITS
from sintra.hardware.estimate.estimate import Shape, kv_bytes

SMALLEST = 1.5625


def weights(folder: Path) -> tuple[int, int]:
    """Elements of the matrices inside the blocks, and of all others, by the safetensors headers."""
    inner = outer = 0
    for path in folder.glob("*.safetensors"):
        for name, tensor in read_safetensors_header(path).items():
            if len(tensor["shape"]) >= 2:
                count = 1
                for side in tensor["shape"]:
                    count *= side
                inner, outer = (
                    (inner + count, outer) if ".layers." in name else (inner, outer + count)
                )
    return inner, outer


def expected_shape(recipe: Recipe, pin: Source) -> Shape | None:
    """Roughly what a variant of a local model will be; None for a hub model or a preset that isn't
    listed.
    """
    if pin.kind != "folder" or recipe.type not in PRESET_BITS or recipe.tensors:
        return None
    folder = Path(pin.locator)
    return shape_of(folder, PRESET_BITS[recipe.type], len(recipe.drop))


def shape_of(folder: Path, bits: float, dropped: int) -> Shape:
    """A model folder's shape with every matrix at the same number of bits a weight."""
    config = json.loads((folder / "config.json").read_text())
    inner, outer = weights(folder)
    layers, width, heads = (
        config.get(k, 1) for k in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    count = inner * max(0, layers - dropped) / layers + outer
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


def hopeless(study: Study, pin: Source) -> str | None:
    """Why no variant can hold the limits, where arithmetic on a local model's headers shows it."""
    if pin.kind != "folder":
        return None
    bounds = lower_bounds(study, Path(pin.locator))
    found = impossible(study.goal, bounds)
    if found is None:
        return None
    limit, best = found
    return (
        f"infeasible: {limit.option} asks for {limit.metric} {limit.op} "
        f"{in_units(limit.metric, limit.limit)}, and no variant can do better than "
        f"{in_units(limit.metric, best)}"
    )


UNITS = {
    "size_bytes": (1e6, "MB"),
    "device_ram_bytes": (2**30, "GiB"),
    "kld_mean": (1, "nats"),
    "kld_p999": (1, "nats"),
}


def in_units(metric: str, value: float) -> str:
    """A metric's value as a person says it."""
    scale, unit = UNITS.get(metric, (1, "tokens/s" if "tps" in metric else ""))
    return f"{value / scale:.4g} {unit}".rstrip()


def lower_bounds(study: Study, folder: Path) -> dict[str, float]:
    """The best size, memory and decode speed that any recipe of the planner could reach, from the
    tensors' shapes.
    """
    bits = min(
        (BLOCK_BITS.get(t, SMALLEST) for t in study.planner.types),
        default=SMALLEST,
    )
    if study.formats != ("gguf",):
        bits = min(bits, study.compress.bits)
    shape = shape_of(folder, bits, study.planner.max_dropped)
    read = max(1, shape.weight_bytes - (0 if shape.tied else shape.embedding_bytes))
    device = study.hardware
    if study.on_board:  # it is to be asked, not argued with
        return {"size_bytes": shape.weight_bytes}
    return {
        "size_bytes": shape.weight_bytes,
        "device_ram_bytes": shape.weight_bytes
        + kv_bytes(shape, study.probe.context)
        + device.runtime_bytes,
        "device_tg_tps": device.efficiency * device.bandwidth / read,
    }
