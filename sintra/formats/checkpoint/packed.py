"""Read what a folder of safetensors holds: which matrices are packed, and how many bytes it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, TypedDict

from sintra.core.errors import Infeasible
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.formats.gguf.layout import Layout, LayoutShape

PACKED = (".weight_packed", ".qweight")  # compressed-tensors; GPTQ and AWQ
ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)$")


class StoredTensor(NamedTuple):
    """A tensor as a safetensors header describes it."""

    type: str  # safetensors' name, as "F16" or "I32"
    shape: list[int]
    size: int  # bytes


class Quantization(TypedDict, total=False):
    """What a checkpoint says of its own quantization; empty where it says nothing."""

    method: str  # "compressed-tensors", "gptq" or "awq"
    bits: int  # per weight
    group: int  # weights that share a scale


class CompressedLayout(Layout):
    """The content of layout.json beside a compressed checkpoint; its fallbacks are empty."""

    quantization: Quantization


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of all safetensors files of a folder by name.

    Raises UserError for a damaged file.
    """
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in read_safetensors_header(path).items():
            start, end = entry["data_offsets"]
            shape = [int(n) for n in entry["shape"]]
            tensors[name] = StoredTensor(str(entry["dtype"]), shape, int(end - start))
    return tensors


def linear_shapes(folder: Path) -> dict[str, list[int]]:
    """Return [rows, columns] by module of the matrices inside the blocks, without the routers of
    experts.
    """
    return {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in read_tensors(folder).items()
        if ".layers." in name
        and len(tensor.shape) == 2
        and name.endswith(".weight")
        and not ROUTER.search(name.removesuffix(".weight"))
    }


def read_quantization(folder: Path) -> Quantization:
    """Return what a checkpoint says of its quantization.

    It stands in config.json, or in quantize_config.json where auto-gptq wrote the checkpoint.
    """
    config = read_object(folder / "config.json").get("quantization_config")
    gptq_config = folder / "quantize_config.json"
    if config is None and gptq_config.exists():
        config = read_object(gptq_config) | {"quant_method": "gptq"}
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


def check_packed(source: Path, compressed: Path, bits: int, group: int) -> None:
    """Check that every matrix of `source` is packed in `compressed` as it was asked for.

    bits: per weight; group: weights that share a scale. Raises Infeasible("unsupported") with the
    first difference.
    """
    actual = read_quantization(compressed)
    if (actual.get("bits"), actual.get("group")) != (bits, group):
        raise Infeasible(
            "unsupported",
            f"asked for {bits} bits in groups of {group}, config.json says {actual or 'nothing'}",
        )
    tensors = read_tensors(compressed)
    for module, (rows, columns) in linear_shapes(source).items():
        packed = next((tensors[module + end] for end in PACKED if module + end in tensors), None)
        if packed is None or f"{module}.weight" in tensors:
            raise Infeasible("unsupported", f"{module} was not packed")
        if packed.type != "I32" or packed.size * 8 != rows * columns * bits:
            raise Infeasible(
                "unsupported",
                f"{module}: {packed.size} bytes of {packed.type} aren't {rows} x {columns} x "
                f"{bits} bits",
            )


def compressed_layout(compressed: Path, original: Layout) -> CompressedLayout:
    """Return the layout of a compressed checkpoint.

    The architecture comes from `original`, the layout of the 16-bit GGUF. Tensor shapes are the
    checkpoint's own; weight_bytes are those of all tensors in the file.
    """
    tensors = read_tensors(compressed)
    embedding_bytes = next(
        (tensor.size for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")), 0
    )
    shape: LayoutShape = {
        **original["shape"],
        "weight_bytes": sum(tensor.size for tensor in tensors.values()),
        "embedding_bytes": embedding_bytes,
    }
    return {
        **original,
        "shape": shape,
        "tensors": [[name, t.type, t.size, t.shape] for name, t in sorted(tensors.items())],
        "quantization": read_quantization(compressed),
        "fallbacks": [],
    }


def first_indivisible(source: Path, group: int) -> str | None:
    """Return the first matrix whose columns are not a multiple of the group size, or None."""
    shapes = linear_shapes(source)
    return next((module for module, (_, columns) in shapes.items() if columns % group), None)
