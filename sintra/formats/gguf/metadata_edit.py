"""Write a GGUF again with other metadata: keys put in and left out, tensors byte for byte."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from sintra.formats.gguf.header import ARRAY, MAGIC, STRING, UINT32, read_gguf_header

INT32 = 5  # GGUF's value type
Addition = int | str | tuple[int, ...]  # a token's id, a text, a list of ids
COUNT_AT = 16  # where the header has the number of keys, bytes
FIRST_KEY = 24  # where the first key begins, bytes


def copy_with_keys(
    source: Path, target: Path, put: Mapping[str, Addition], leave_out: Collection[str] = ()
) -> None:
    """Write `target`: `source` without the keys of `put` and `leave_out`, then with those of `put`.

    Raises Malformed for a damaged file.
    """
    header = read_gguf_header(source)
    gone = {*put, *leave_out}
    with source.open("rb") as file:
        head = file.read(header.data_start)
        kept = [
            x for key, x in _entries(head, header.starts, header.tensors_start) if key not in gone
        ]
        entries = b"".join([*kept, *(_entry(key, value) for key, value in put.items())])
        count = struct.pack("<Q", len(kept) + len(put))
        tensors = head[header.tensors_start : header.tensors_end]
        start = head[:COUNT_AT] + count + entries + tensors
        with target.open("wb") as out:
            out.write(start + b"\0" * (-len(start) % header.alignment))
            shutil.copyfileobj(file, out, 1 << 22)


def _entries(head: bytes, starts: Mapping[str, int], end: int) -> list[tuple[str, bytes]]:
    """Return every key with its entry's bytes, in the file's order.

    starts: where each key's value lies; end: where the last entry ends, bytes.
    """
    assert head[:4] == MAGIC
    firsts = {key: value - 4 - len(key.encode()) - 8 for key, value in starts.items()}
    order = sorted(firsts, key=lambda key: firsts[key])
    ends = [*(firsts[key] for key in order[1:]), end]
    return [(key, head[firsts[key] : last]) for key, last in zip(order, ends, strict=True)]


def _entry(key: str, value: Addition) -> bytes:
    """Return a metadata entry: the key, its type and its value."""
    raw = key.encode()
    name = struct.pack("<Q", len(raw)) + raw
    if isinstance(value, int):
        return name + struct.pack("<II", UINT32, value)
    if isinstance(value, str):
        text = value.encode()
        return name + struct.pack("<IQ", STRING, len(text)) + text
    numbers = struct.pack(f"<{len(value)}i", *value)
    return name + struct.pack("<IIQ", ARRAY, INT32, len(value)) + numbers
