"""Put together a GGUF from the tensors of others that differ from it in tensor types only.

llama.cpp writes the same header for every mix of types of one model, apart from the file type, each
tensor's type and its offset, all of fixed width. So a mix is one file's header with these numbers
replaced, and tensors copied from the files that have them: byte for byte what quantizing the mix
from the start would write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintra.formats.gguf import header
from sintra.formats.gguf.sizes import padded_size


def assemble(
    parts: Mapping[str, Path], part_of: Mapping[str, str], file_type: int, target: Path
) -> None:
    """Write `target`: every tensor from the file parts[part_of[tensor]].

    Tensors without an entry in part_of (norms) come from the first part. file_type is llama.cpp's
    number. Raises ValueError where the files do not hold the same tensors or metadata.
    """
    readers = {role: header.open_gguf(path) for role, path in parts.items()}
    tensors = {role: {t.name: t for t in reader.tensors} for role, reader in readers.items()}
    first = next(iter(parts))
    _check_same_model(readers, tensors, first)
    head = bytearray(_read_head(parts[first], readers[first].data_offset))
    _patch_file_type(head, readers[first], file_type)
    offset = 0  # of the next tensor, from the start of the data
    sources = []
    for name, tensor in tensors[first].items():
        source = tensors[part_of.get(name, first)][name]
        _patch_tensor(head, tensor, int(source.tensor_type), offset)
        sources.append(source)
        offset += padded_size(int(source.n_bytes))
    with target.open("wb") as file:
        file.write(head)
        for source in sources:
            file.write(source.data.tobytes())
            file.write(b"\0" * (padded_size(int(source.n_bytes)) - int(source.n_bytes)))


def _check_same_model(readers: dict[str, Any], tensors: dict[str, Any], first: str) -> None:
    """Compare tensor names and header sizes of all parts. Raises ValueError where they differ."""
    for role, by_name in tensors.items():
        same_names = list(by_name) == list(tensors[first])
        if not same_names or readers[role].data_offset != readers[first].data_offset:
            raise ValueError("the parts aren't of the same model")


def _read_head(path: Path, size: int) -> bytes:
    """Read the first `size` bytes of a file."""
    with path.open("rb") as file:
        return file.read(size)


def _patch_tensor(head: bytearray, tensor: Any, tensor_type: int, offset: int) -> None:
    """Overwrite a tensor's type (32 bits) and data offset (64 bits) in a header."""
    start = tensor.field.offset + sum(part.nbytes for part in tensor.field.parts[:-2])
    struct.pack_into("<IQ", head, start, tensor_type, offset)


def _patch_file_type(head: bytearray, reader: Any, file_type: int) -> None:
    """Overwrite general.file_type in a header. Raises ValueError where the file has none."""
    field = reader.get_field("general.file_type")
    if field is None:
        raise ValueError("the file has no general.file_type")
    start = field.offset + sum(part.nbytes for part in field.parts[: field.data[0]])
    struct.pack_into("<I", head, start, file_type)
