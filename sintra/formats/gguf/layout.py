"""Read back from a GGUF's header what the file holds: tensor types, sizes and the model's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from sintra.formats.gguf.header import ArrayInfo, Header, read_array, read_gguf_header

# GGUF architecture -> which layers slide where the file doesn't say: all but every n-th, and
# whether that is the first of n. From llama.cpp, src/models, load_swa_pattern (0.3.36's).
WINDOW_PATTERNS = {
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gemma-embedding": (6, False),
    "cohere2": (4, False),
    "exaone4": (4, False),
    "gpt-oss": (2, False),
    "olmo2": (4, False),
    "smallthinker": (4, True),
}
TensorRow = list[Any]
"""[name, tensor type, bytes, shape] of a tensor; a GGUF's shape has the row length first."""


class LayoutShape(TypedDict):
    """The sizes of a model that estimates need: fields of hardware.estimate.Shape."""

    weight_bytes: int  # of all tensors' data, without the header
    embedding_bytes: int  # of the token embedding's data
    tied: bool  # whether the token embedding is the output matrix too
    parameters: int  # elements of all tensors
    layers: int  # blocks
    width: int  # elements of a hidden state
    heads: int  # attention heads; the most of any block
    kv_heads: int  # key and value heads; the most of any block
    head_dim: int  # elements of a key
    vocabulary: int  # tokens
    bare: NotRequired[int]  # blocks without attention, where there are any
    window: NotRequired[int]  # length of sliding attention, tokens, where there is any
    windowed: NotRequired[int]  # blocks that have it


class Layout(TypedDict):
    """The content of layout.json, which stages write beside a model file."""

    architecture: str  # GGUF's name
    shape: LayoutShape
    context: int  # context length that the model was trained for, tokens; 0 where unknown
    tensors: list[TensorRow]
    # what stages add:
    presets: NotRequired[dict[str, dict[str, str]]]  # stock preset -> matrix -> type, by a dry run
    warnings: NotRequired[list[str]]  # of llama.cpp's converter
    decoded: NotRequired[str]  # type that the source had, where it was quantized already
    fallbacks: NotRequired[list[list[str]]]  # [tensor, requested type, written type] each
    rounding: NotRequired[Mapping[str, object]]  # how compensated rounding went
    refined: NotRequired[object]  # tensors that were rounded once more, block after block
    learned: NotRequired[object]  # held-out error before and after learning, by block
    polish: NotRequired[Mapping[str, object]]  # held-out KLD before and after end-to-end tuning


def read_layout(path: Path) -> Layout:
    """Read the layout of a GGUF.

    Raises ValueError where the metadata lacks a size, Malformed for a damaged file.
    """
    import gguf  # loads numpy

    header = read_gguf_header(path)
    architecture = header.text("general.architecture")
    size_of = _size_reader(path, header, architecture)
    tensors: list[TensorRow] = [
        [t.name, gguf.GGMLQuantizationType(t.type).name, t.size, list(t.shape)]
        for t in header.tensors
    ]
    shape = _read_shape(size_of, tensors, path.name)
    kv_heads = _number(path, header, f"{architecture}.attention.head_count_kv")
    if isinstance(kv_heads, list) and 0 in kv_heads:
        shape["bare"] = kv_heads.count(0)
    if windowed := _windowed(path, header, architecture, shape["layers"]):
        shape["window"] = size_of("attention.sliding_window")
        shape["windowed"] = windowed
    return {
        "architecture": architecture,
        "shape": shape,
        "context": size_of("context_length", 0),
        "tensors": tensors,
    }


def read_context(path: Path) -> int:
    """Return the context that a GGUF's model was trained for, tokens; 0 where it is not said.

    Raises Malformed for a damaged file.
    """
    header = read_gguf_header(path)
    architecture = header.text("general.architecture")
    return int(_size_reader(path, header, architecture)("context_length", 0))


def _windowed(path: Path, header: Header, architecture: str, layers: int) -> int:
    """Return how many of the blocks have sliding attention in llama.cpp."""
    if not _number(path, header, f"{architecture}.attention.sliding_window"):
        return 0
    said = _number(path, header, f"{architecture}.attention.sliding_window_pattern")
    if isinstance(said, list):
        return sum(map(bool, said[:layers]))
    every, first = WINDOW_PATTERNS.get(architecture, (0, False))
    every = said or every
    whole = -(-layers // every) if every and first else layers // every if every else layers
    return layers - whole


def _size_reader(path: Path, header: Header, architecture: str) -> Callable[..., int]:
    """Return a function (name, default=None) that reads a whole number of the architecture.

    Of a list with a number for each block it gives the largest. Without a default it raises
    ValueError for a missing number.
    """

    def size_of(name: str, default: int | None = None) -> int:
        value = _number(path, header, f"{architecture}.{name}")
        if value is None and default is None:
            raise ValueError(f"{path.name} lacks {architecture}.{name}")
        if value is None:
            return int(default or 0)
        return int(max(value) if isinstance(value, list) else value)

    return size_of


def _read_shape(size_of: Callable[..., int], tensors: list[TensorRow], file: str) -> LayoutShape:
    """Return the model's sizes. Raises ValueError where the token embedding is not a matrix."""
    by_name = {t[0]: t for t in tensors}
    heads, width = size_of("attention.head_count"), size_of("embedding_length")
    _, _, embedding_bytes, embedding_shape = by_name["token_embd.weight"]
    if len(embedding_shape) != 2:
        raise ValueError(
            f"{file}: token_embd.weight has {len(embedding_shape)} sides, a matrix is wanted"
        )
    return {
        "weight_bytes": sum(t[2] for t in tensors),
        "embedding_bytes": embedding_bytes,
        "tied": "output.weight" not in by_name,
        "parameters": sum(math.prod(t[3]) for t in tensors),
        "layers": size_of("block_count"),
        "width": width,
        "heads": heads,
        "kv_heads": size_of("attention.head_count_kv", heads),
        "head_dim": size_of("attention.key_length", width // max(1, heads)),
        "vocabulary": embedding_shape[1],
    }


def _number(path: Path, header: Header, key: str) -> Any:
    """Return a number of the metadata, or a list of them; None where there is neither."""
    value = header.metadata.get(key)
    if isinstance(value, ArrayInfo):
        return read_array(path, value) or None
    return None if isinstance(value, bytes) else value
