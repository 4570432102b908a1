"""Read and check the headers of safetensors files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, TypedDict

from sintra.core.errors import UserError

MOST_HEADER = 100_000_000  # bytes; the format's own limit


class TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str  # safetensors' name, as "F16"
    shape: list[int]
    data_offsets: list[int]  # start and end in bytes, from the end of the header


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON.

    Returns the entries by tensor name, without __metadata__. Raises UserError for a damaged file.
    """
    size = path.stat().st_size
    length, header = _read_json_header(path, size)
    header.pop("__metadata__", None)
    if strange := [name for name, entry in header.items() if not _is_tensor(entry)]:
        raise UserError(
            f"{path} is not a safetensors file: its header says nothing sensible of "
            f"{strange[0][:80]!r}"
        )
    need = max((t["data_offsets"][1] for t in header.values()), default=0)
    if need + 8 + length != size:
        raise UserError(
            f"{path} is truncated: {size} bytes where its header names {need + 8 + length}; get "
            "it again"
        )
    return header


def _read_json_header(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Read the length in bytes and the JSON object at the start of a file of `size` bytes.

    Raises UserError.
    """
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise UserError(f"{path} is truncated: copy or download it again")
        if length > MOST_HEADER:
            raise UserError(f"{path} is not a safetensors file: a header of {length} bytes")
        try:
            header = json.loads(handle.read(length))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is not a safetensors file: its header can't be read") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file: its header can't be read")
    return length, header


def _is_tensor(entry: object) -> bool:
    """Return whether JSON is a TensorEntry with possible numbers."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, ends = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(ends, list) or len(ends) != 2:
        return False
    numbers = [*shape, *ends]
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) and ends[0] <= ends[1]
