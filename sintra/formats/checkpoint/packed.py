"""What a folder of safetensors really holds: which matrices are packed, how many bytes it has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible
from sintra.formats.checkpoint.safetensors import safetensors_header

PACKED = (".weight_packed", ".qweight")  # compressed-tensors; GPTQ and AWQ
ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)$")


def tensors(folder: Path) -> dict[str, tuple[str, list[int], int]]:
    """Name -> (type, shape, bytes) over all files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in safetensors_header(path).items():
            start, end = entry["data_offsets"]
            found[name] = (str(entry["dtype"]), [int(n) for n in entry["shape"]], int(end - start))
    return found


def linear(folder: Path) -> dict[str, list[int]]:
    """The matrices inside the blocks, (rows, columns) by module, without the routers of experts."""
    return {
        name.removesuffix(".weight"): shape
        for name, (_, shape, _) in tensors(folder).items()
        if ".layers." in name
        and len(shape) == 2
        and name.endswith(".weight")
        and not ROUTER.search(name.removesuffix(".weight"))
    }


def quantization(folder: Path) -> dict[str, Any]:
    """{"method", "bits", "group"} as the checkpoint itself says; config.json's word, or auto-gptq's
    quantize_config.json.
    """
    config = json.loads((folder / "config.json").read_text()).get("quantization_config")
    own = folder / "quantize_config.json"
    if config is None and own.exists():
        config = json.loads(own.read_text()) | {"quant_method": "gptq"}
    if not config:
        return {}
    if config.get("quant_method") == "compressed-tensors":
        weights = next(iter(config["config_groups"].values()))["weights"]
        return {
            "method": "compressed-tensors",
            "bits": weights["num_bits"],
            "group": weights["group_size"],
        }
    return {"method": config["quant_method"], "bits": config["bits"], "group": config["group_size"]}


def prove(source: Path, made: Path, bits: int, group: int) -> None:
    """Compare a compressed checkpoint with what was asked for. Raises Infeasible("unsupported")
    with the first difference.
    """
    said = quantization(made)
    if (said.get("bits"), said.get("group")) != (bits, group):
        raise Infeasible(
            "unsupported",
            f"asked for {bits} bits in groups of {group}, config.json says {said or 'nothing'}",
        )
    held = tensors(made)
    for module, (rows, columns) in linear(source).items():
        packed = next((held[module + end] for end in PACKED if module + end in held), None)
        if packed is None or f"{module}.weight" in held:
            raise Infeasible("unsupported", f"{module} was not packed")
        if packed[0] != "I32" or packed[2] * 8 != rows * columns * bits:
            raise Infeasible(
                "unsupported",
                (
                    f"{module}: {packed[2]} bytes of {packed[0]} aren't {rows} x {columns} x "
                    f"{bits} bits"
                ),
            )


def layout(made: Path, original: dict[str, Any]) -> dict[str, Any]:
    """The layout.json of a compressed checkpoint: as sintra.formats.gguf.layout's, the architecture taken from
    the 16-bit GGUF's.

    Tensor shapes are the checkpoint's own; weight_bytes are those of all tensors in the file.
    """
    held = tensors(made)
    embedding = next(
        (row[2] for name, row in held.items() if name.endswith("embed_tokens.weight")), 0
    )
    shape = original["shape"] | {
        "weight_bytes": sum(row[2] for row in held.values()),
        "embedding_bytes": embedding,
    }
    rows = [[name, kind, size, sides] for name, (kind, sides, size) in sorted(held.items())]
    return original | {
        "shape": shape,
        "tensors": rows,
        "quantization": quantization(made),
        "fallbacks": [],
    }


def indivisible(source: Path, group: int) -> str | None:
    """The first matrix whose columns aren't a multiple of the group size."""
    return next((m for m, (_, columns) in linear(source).items() if columns % group), None)
