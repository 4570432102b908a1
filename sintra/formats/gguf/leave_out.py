"""Write a GGUF without one of its tensors; all else stays byte for byte."""

from __future__ import annotations

import struct
from pathlib import Path

from sintra.formats.gguf.assemble import PIECE, copy_bytes
from sintra.formats.gguf.header import Header, TensorInfo, read_gguf_header
from sintra.formats.gguf.sizes import padded_size

COUNT_AT = 8  # where a GGUF has the number of its tensors, bytes from the file's start
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


def without_equal_output(source: Path, target: Path) -> bool:
    """Write `target` without an output matrix that is the token embedding once more.

    llama.cpp takes the embedding for the output where there is none. Returns whether the two were
    equal and it was written.
    """
    header = read_gguf_header(source)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    one, two = tensors.get(OUTPUT), tensors.get(EMBEDDING)
    if one is None or two is None or not _same(source, header, one, two):
        return False
    _write_without(source, header, one, target)
    return True


def _same(path: Path, header: Header, one: TensorInfo, two: TensorInfo) -> bool:
    """Return whether two tensors hold the same bytes of the same type."""
    if (one.type, one.shape, one.size) != (two.type, two.shape, two.size):
        return False
    with path.open("rb") as first, path.open("rb") as second:
        first.seek(header.data_start + one.offset)
        second.seek(header.data_start + two.offset)
        for left in range(one.size, 0, -PIECE):
            if first.read(min(left, PIECE)) != second.read(min(left, PIECE)):
                return False
    return True


def _write_without(source: Path, header: Header, dropped: TensorInfo, target: Path) -> None:
    """Write the file: its header with one entry less, and the other tensors' data."""
    kept = [tensor for tensor in header.tensors if tensor is not dropped]
    with source.open("rb") as file, target.open("wb") as out:
        head = bytearray(file.read(header.data_start))
        struct.pack_into("<Q", head, COUNT_AT, len(kept))
        offset = 0  # of the next tensor, from the start of the data
        for tensor in kept:
            struct.pack_into("<Q", head, tensor.entry + 4, offset)
            offset += padded_size(tensor.size, header.alignment)
        start, end = _entry(dropped)
        last = max(_entry(tensor)[1] for tensor in header.tensors)
        head = head[:start] + head[end:last]
        out.write(head.ljust(padded_size(len(head), header.alignment), b"\0"))
        for tensor in kept:
            copy_bytes(file, header.data_start + tensor.offset, tensor.size, out)
            out.write(b"\0" * (padded_size(tensor.size, header.alignment) - tensor.size))


def _entry(tensor: TensorInfo) -> tuple[int, int]:
    """Return where a tensor's entry begins and ends in the header, in bytes.

    Name (8 bytes of length, then the text), number of sides (4), sides (8 each), type (4), offset
    (8).
    """
    before = 8 + len(tensor.name.encode()) + 4 + 8 * len(tensor.shape)
    return tensor.entry - before, tensor.entry + 12
