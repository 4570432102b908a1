"""A GGUF's tensors, mapped into memory; its vocabulary is not read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sintra.core import lazy
from sintra.formats.gguf.header import Header, TensorInfo, read_gguf_header

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4"}


class MappedTensor(NamedTuple):
    """A tensor whose data lie in a mapped file."""

    name: str
    tensor_type: GGMLQuantizationType
    shape: tuple[int, ...]  # the row's length first
    n_bytes: int
    data: NDArray[Any]  # (..., rows, elements); of other types than DTYPES (..., rows, bytes)


class MappedFile(NamedTuple):
    """A GGUF in memory."""

    header: Header
    tensors: tuple[MappedTensor, ...]
    data: np.memmap[Any, Any]  # the whole file, (bytes,)


def open_tensors(path: Path, mode: Literal["r", "r+"] = "r") -> MappedFile:
    """Check a file and map its tensors. Raises Malformed."""
    header = read_gguf_header(path)
    data = np.memmap(path, np.uint8, mode)
    tensors = tuple(_mapped(data, header.data_start, info) for info in header.tensors)
    return MappedFile(header, tensors, data)


def _mapped(data: np.memmap[Any, Any], data_start: int, info: TensorInfo) -> MappedTensor:
    from gguf import GGMLQuantizationType  # loads numpy

    kind = GGMLQuantizationType(info.type)
    start = data_start + info.offset
    raw = data[start : start + info.size]
    values = raw.view(DTYPES[kind.name]) if kind.name in DTYPES else raw
    rows = info.shape[:0:-1]
    shaped = values.reshape(*rows, len(values) // math.prod(rows))
    return MappedTensor(info.name, kind, info.shape, info.size, shaped)
