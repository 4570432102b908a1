"""A GGUF put together from the tensors of others that differ from it in tensor types only.

llama.cpp writes the same header for every mix of types of one model, apart from the file type, each
tensor's type and its offset, all of fixed width. So a mix is one file's header with these numbers
replaced, and tensors copied from the files that have them: byte for byte what quantizing anew would
write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintra.formats.gguf import header
from sintra.formats.gguf.sizes import padded


def assemble(
    parts: Mapping[str, Path], chosen: Mapping[str, str], file_type: int, target: Path
) -> None:
    """Write `target`: every tensor from parts[chosen[tensor]]; those not chosen (norms) from the
    first part.

    Raises ValueError where the files don't hold the same tensors or metadata.
    """
    readers = {role: header.reader(path) for role, path in parts.items()}
    tensors = {role: {t.name: t for t in reader.tensors} for role, reader in readers.items()}
    first = next(iter(parts))
    if any(
        list(t) != list(tensors[first]) or readers[r].data_offset != readers[first].data_offset
        for r, t in tensors.items()
    ):
        raise ValueError("the parts aren't of the same model")
    head = bytearray(_head(parts[first], readers[first].data_offset))
    _patch_file_type(head, readers[first], file_type)
    at = 0
    order = []
    for name, tensor in tensors[first].items():
        source = tensors[chosen.get(name, first)][name]
        start = tensor.field.offset + sum(part.nbytes for part in tensor.field.parts[:-2])
        struct.pack_into("<IQ", head, start, int(source.tensor_type), at)
        order.append(source)
        at += padded(int(source.n_bytes))
    with target.open("wb") as file:
        file.write(head)
        for source in order:
            file.write(source.data.tobytes())
            file.write(b"\0" * (padded(int(source.n_bytes)) - int(source.n_bytes)))


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _patch_file_type(head: bytearray, reader: Any, file_type: int) -> None:
    field = reader.get_field("general.file_type")
    if field is None:
        raise ValueError("the file has no general.file_type")
    start = field.offset + sum(part.nbytes for part in field.parts[: field.data[0]])
    struct.pack_into("<I", head, start, file_type)
