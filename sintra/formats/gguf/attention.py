"""Leave out the attention of single blocks: a Llama's GGUF is rewritten as an architecture of
llama.cpp that allows this.

llama.cpp's `deci` (NVIDIA's Llama-Nemotron, made by Puzzle, arXiv 2411.19146) is a Llama whose head
counts are a list with a number for each block; where it is 0 the block is its feed-forward part
alone, and has no place in the KV cache. A Llama relabelled so gives the same logits bit for bit.
The reverse, a feed-forward width of 0, skips the whole block there (llama-cpp-python 0.3.36: the
same logits as with the block dropped), so there is no way to leave out a feed-forward part alone;
and the first block must keep its attention, from which a head's width is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.formats.gguf import header

SOURCE_ARCHITECTURES = ("llama",)  # GGUF architectures that deci can express
TARGET_ARCHITECTURE = "deci"
PER_BLOCK_KEYS = ("attention.head_count", "attention.head_count_kv")  # lists in the target


def refusal_reason(architecture: str, names: list[str]) -> str | None:
    """Return why no block of a model can go without its attention, or None where blocks can.

    names: those of the model's tensors.
    """
    if architecture not in SOURCE_ARCHITECTURES:
        return (
            f"llama.cpp runs blocks without attention of {' and '.join(SOURCE_ARCHITECTURES)} "
            f"models only, not of {architecture}"
        )
    if any("_exps" in n for n in names):
        return "llama.cpp runs no mixture of experts with blocks without attention"
    return None


def is_attention(name: str, blocks: tuple[int, ...]) -> bool:
    """Return whether a tensor belongs to the attention of one of the blocks, its norm included."""
    parts = name.split(".")
    return parts[0] == "blk" and int(parts[1]) in blocks and parts[2].startswith("attn")


def without_attention(source: Path, target: Path, blocks: tuple[int, ...]) -> None:
    """Write `target`: the same tensors and metadata except the attention of `blocks`.

    Raises ValueError with a reason where that cannot be expressed.
    """
    import gguf  # loads numpy

    reader = header.open_gguf(source)
    architecture = reader.get_field("general.architecture").contents()
    if reason := refusal_reason(architecture, [t.name for t in reader.tensors]):
        raise ValueError(reason)
    layers = reader.get_field(f"{architecture}.block_count").contents()
    if any(not 0 < b < layers for b in blocks):
        raise ValueError(
            f"the attention of blocks {list(blocks)} can't be left out: llama.cpp takes a head's "
            f"width from the first block, so what may go is 1 to {layers - 1}"
        )
    writer = gguf.GGUFWriter(target, TARGET_ARCHITECTURE)
    has_attention = [b not in blocks for b in range(layers)]
    for name, field in reader.fields.items():
        _copy_field(writer, name, field, architecture, has_attention)
    for tensor in reader.tensors:
        if not is_attention(tensor.name, blocks):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_field(
    writer: Any, name: str, field: Any, architecture: str, has_attention: list[bool]
) -> None:
    """Write one metadata value under the target architecture's name.

    Head counts become a list with 0 for each block whose has_attention is False.
    """
    import gguf  # loads numpy

    if name.startswith("GGUF.") or name == "general.architecture":
        return
    key = name.removeprefix(f"{architecture}.")
    if key in PER_BLOCK_KEYS:
        value = field.contents()
        counts = value if isinstance(value, list) else [value] * len(has_attention)
        writer.add_array(
            f"{TARGET_ARCHITECTURE}.{key}",
            [n if attends else 0 for n, attends in zip(counts, has_attention, strict=True)],
        )
        return
    is_array = field.types[0] == gguf.GGUFValueType.ARRAY
    writer.add_key_value(
        name if key == name else f"{TARGET_ARCHITECTURE}.{key}",
        field.contents(),
        field.types[0],
        sub_type=field.types[-1] if is_array else None,
    )
