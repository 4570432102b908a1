"""Blocks without their attention: a Llama's GGUF under the one architecture for which llama.cpp
runs such blocks.

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

SOURCES = ("llama",)  # GGUF architectures that deci can express
TARGET = "deci"
LISTED = ("attention.head_count", "attention.head_count_kv")


def refusal(architecture: str, names: list[str]) -> str | None:
    """Why blocks of a model can't do without their attention; None where they can. names: of its
    tensors.
    """
    if architecture not in SOURCES:
        return (
            f"llama.cpp runs blocks without attention of {' and '.join(SOURCES)} models only, not "
            f"of {architecture}"
        )
    if any("_exps" in n for n in names):
        return "llama.cpp runs no mixture of experts with blocks without attention"
    return None


def is_attention(name: str, blocks: tuple[int, ...]) -> bool:
    """Whether a tensor belongs to the attention, its norm included, of one of the blocks."""
    parts = name.split(".")
    return parts[0] == "blk" and int(parts[1]) in blocks and parts[2].startswith("attn")


def without_attention(source: Path, target: Path, blocks: tuple[int, ...]) -> None:
    """Write `target`: the same tensors and metadata but for the attention of `blocks`.

    Raises ValueError with a reason where that can't be expressed.
    """
    import gguf

    reader = header.reader(source)
    architecture = reader.get_field("general.architecture").contents()
    if reason := refusal(architecture, [t.name for t in reader.tensors]):
        raise ValueError(reason)
    layers = reader.get_field(f"{architecture}.block_count").contents()
    if any(not 0 < b < layers for b in blocks):
        raise ValueError(
            f"the attention of blocks {list(blocks)} can't be left out: llama.cpp takes a head's "
            f"width from the first block, so what may go is 1 to {layers - 1}"
        )
    writer = gguf.GGUFWriter(target, TARGET)
    for name, field in reader.fields.items():
        copy(writer, name, field, architecture, [b not in blocks for b in range(layers)])
    for tensor in reader.tensors:
        if not is_attention(tensor.name, blocks):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy(writer: Any, name: str, field: Any, architecture: str, kept: list[bool]) -> None:
    """One value of the metadata, by the new architecture's name; the head counts as a list."""
    import gguf

    if name.startswith("GGUF.") or name == "general.architecture":
        return
    own = name.removeprefix(f"{architecture}.")
    if own in LISTED:
        value = field.contents()
        counts = value if isinstance(value, list) else [value] * len(kept)
        writer.add_array(
            f"{TARGET}.{own}", [n if k else 0 for n, k in zip(counts, kept, strict=True)]
        )
        return
    listed = field.types[0] == gguf.GGUFValueType.ARRAY
    renamed = name if own == name else f"{TARGET}.{own}"
    writer.add_key_value(
        renamed, field.contents(), field.types[0], sub_type=field.types[-1] if listed else None
    )
