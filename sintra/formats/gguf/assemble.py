"""Put together a GGUF from the tensors of others that differ from it in tensor types only.

llama.cpp writes the same header for every mix of types of one model, apart from the file type, each
tensor's type and its offset, all of fixed width. So a mix is one file's header with these numbers
replaced, and tensors copied from the files that have them: byte for byte what quantizing the mix
from the start would write.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from sintra.formats.gguf.header import Header, TensorInfo, read_gguf_header
from sintra.formats.gguf.sizes import padded_size

PIECE = 1 << 22  # bytes that are copied at once


def assemble(
    parts: Mapping[str, Path], part_of: Mapping[str, str], file_type: int, target: Path
) -> None:
    """Write `target`: every tensor from the file parts[part_of[tensor]].

    Tensors without an entry in part_of (norms) come from the first part. file_type is llama.cpp's
    number. Raises ValueError where the files do not hold the same tensors or metadata.
    """
    headers = {role: read_gguf_header(path) for role, path in parts.items()}
    tensors = {role: {t.name: t for t in found.tensors} for role, found in headers.items()}
    first = next(iter(parts))
    _check_same_model(headers, tensors, first)
    head = bytearray(_read_head(parts[first], headers[first].data_start))
    _patch_file_type(head, headers[first], file_type)
    offset = 0  # of the next tensor, from the start of the data
    chosen = [(part_of.get(name, first), name) for name in tensors[first]]
    for role, name in chosen:
        source = tensors[role][name]
        struct.pack_into("<IQ", head, tensors[first][name].entry, source.type, offset)
        offset += padded_size(source.size)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(target.open("wb"))
        files = {role: stack.enter_context(path.open("rb")) for role, path in parts.items()}
        file.write(head)
        for role, name in chosen:
            source = tensors[role][name]
            copy_bytes(files[role], headers[role].data_start + source.offset, source.size, file)
            file.write(b"\0" * (padded_size(source.size) - source.size))


def copy_bytes(source: BinaryIO, start: int, size: int, target: BinaryIO) -> None:
    """Copy some bytes from one open file to the end of another."""
    source.seek(start)
    while size > 0:
        piece = source.read(min(size, PIECE))
        if not piece:
            raise ValueError("a part ends before its last tensor")
        target.write(piece)
        size -= len(piece)


def _check_same_model(
    headers: Mapping[str, Header], tensors: Mapping[str, Mapping[str, TensorInfo]], first: str
) -> None:
    """Compare tensor names and header sizes of all parts. Raises ValueError where they differ."""
    for role, by_name in tensors.items():
        same_names = list(by_name) == list(tensors[first])
        if not same_names or headers[role].data_start != headers[first].data_start:
            raise ValueError("the parts aren't of the same model")


def _read_head(path: Path, size: int) -> bytes:
    """Read the first `size` bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def _patch_file_type(head: bytearray, header: Header, file_type: int) -> None:
    """Overwrite general.file_type in a header. Raises ValueError where the file has none."""
    start = header.starts.get("general.file_type")
    if start is None:
        raise ValueError("the file has no general.file_type")
    struct.pack_into("<I", head, start, file_type)
