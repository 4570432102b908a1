"""Check a GGUF's header before C code maps the file: what it says must fit the file that it is in.

llama.cpp and gguf's reader check counts, lengths and offsets to different degrees, and a file may
come from anywhere. Here each is compared with the file's size before it is used. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sintra.core.errors import Infeasible

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Numbers of GGUF's value types.
UINT32, BOOL, STRING, ARRAY, UINT64 = 4, 7, 8, 9, 10
# Value type -> bytes of a scalar, and its code for struct.
WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
CODES = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
MOST_TENSORS = 1 << 20
MOST_KEYS = 1 << 16
LONGEST_NAME = 63  # bytes; ggml's names have 64 with their end
LONGEST_KEY = (1 << 16) - 1  # bytes
LONGEST_TEXT = 16 << 20  # bytes
LARGEST_ALIGNMENT = 1 << 16  # bytes
MOST_DIMS = 4
LARGEST_SIDE = 1 << 40  # elements
TENSOR_LEAST = 25  # bytes that a tensor's entry has at the least
KEY_LEAST = 13  # bytes that a metadata entry has at the least
# What hyperparameters can be at all; llama.cpp sizes arrays and loops by them.
BOUNDS = {
    "block_count": (1, 1024),
    "embedding_length": (1, 1 << 20),
    "vocab_size": (1, 1 << 24),
    "context_length": (0, 1 << 31),
    "expert_count": (0, 1 << 12),
    "expert_used_count": (0, 1 << 12),
    "attention.key_length": (1, 1 << 16),
    "attention.value_length": (1, 1 << 16),
    "rope.dimension_count": (0, 1 << 16),
}
# Arrays that are read at every token's number -> value types that they may have.
PER_TOKEN_TYPES = {"scores": (6,), "token_type": (4, 5)}


class Malformed(Infeasible, ValueError):
    """A file that is not what its header says, in one line.

    In a step it is a result, since the same file stays malformed.
    """

    def __init__(self, message: str) -> None:
        super().__init__("refused", message)


class ArrayInfo(NamedTuple):
    """An array in the metadata, whose elements are skipped."""

    element_type: int  # GGUF's number of the value type
    length: int  # elements
    start: int = 0  # where the first one lies, bytes from the start of the file


Value = int | float | bool | bytes | ArrayInfo  # bytes: a text


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's entry in the header."""

    name: str
    shape: tuple[int, ...]  # the row's length first
    type: int  # ggml's number of the tensor type
    offset: int  # bytes from the start of the data
    size: int  # bytes
    entry: int = 0  # where the header has its type and then its offset, bytes from the file's start


@dataclass(frozen=True)
class Header:
    """A checked header."""

    version: int  # of the GGUF format
    data_start: int  # where the tensors' data begin, bytes from the start of the file
    alignment: int  # of the tensors' offsets, bytes
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    starts: dict[str, int]  # where each key's value lies, bytes from the start of the file
    tensors_start: int  # where the tensors' entries begin, bytes from the start of the file
    tensors_end: int  # where they end, bytes from the start of the file

    def text(self, key: str) -> str:
        """Return a text of the metadata; "" where there is none."""
        value = self.metadata.get(key)
        return value.decode(errors="replace") if isinstance(value, bytes) else ""


class Cursor:
    """A position in the mapped file that moves on with each value read, never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0  # bytes
        self.end = len(data)  # bytes

    @property
    def remaining(self) -> int:
        """Return how many bytes are left."""
        return self.end - self.position

    def number(self, value_type: int) -> Any:
        """Read a scalar of a GGUF value type. Raises Malformed."""
        width = WIDTH[value_type]
        if self.remaining < width:
            raise Malformed("it ends within its header")
        if value_type == BOOL and self.data[self.position] > 1:
            raise Malformed("a bool that is neither 0 nor 1")
        value = struct.unpack_from(CODES[value_type], self.data, self.position)[0]
        self.position += width
        return value

    def text(self, most: int) -> bytes:
        """Read a string: its length in 8 bytes, then as many bytes, at most `most`.

        Raises Malformed.
        """
        length = self.number(UINT64)
        if length > min(most, self.remaining):
            raise Malformed(
                f"a text of {length} bytes where {min(most, self.remaining)} are possible"
            )
        self.position += length
        return self.data[self.position - length : self.position]

    def skip_texts(self, count: int) -> None:
        """Skip strings; a vocabulary has some hundred thousand. Raises Malformed."""
        data, position, end = self.data, self.position, self.end
        for _ in range(count):
            if end - position < 8:
                raise Malformed("it ends within a list of texts")
            length = int.from_bytes(data[position : position + 8], "little")
            position += 8
            if length > min(LONGEST_TEXT, end - position):
                raise Malformed(
                    f"a text of {length} bytes where {min(LONGEST_TEXT, end - position)} are "
                    "possible"
                )
            position += length
        self.position = position


def read_gguf_header(path: Path) -> Header:
    """Read and check a header.

    Raises Malformed in one line; OSError where there is no such file.
    """
    if path.stat().st_size < 24:
        raise Malformed(f"{path.name} is not a GGUF: it has {path.stat().st_size} bytes")
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read_header(Cursor(data))
        except Malformed as error:
            raise Malformed(f"{path.name} is not a sound GGUF: {error}") from None


def read_array(path: Path, array: ArrayInfo) -> list[int | float | bool]:
    """Return the numbers of an array in the metadata; none of an array of texts."""
    width = WIDTH.get(array.element_type, 0)
    with path.open("rb") as file:
        file.seek(array.start)
        data = file.read(array.length * width)
    code = CODES.get(array.element_type, "<B")
    return [value for (value,) in struct.iter_unpack(code, data)]


def read_numbers(path: Path, header: Header, key: str) -> frozenset[int]:
    """Return the whole numbers of a list in the metadata; none where there is no such list."""
    array = header.metadata.get(key)
    values = read_array(path, array) if isinstance(array, ArrayInfo) else []
    return frozenset(value for value in values if isinstance(value, int))


def read_texts(path: Path, array: ArrayInfo, numbers: Collection[int]) -> dict[int, str]:
    """Return some elements of an array of texts by their numbers; none that it hasn't."""
    texts: dict[int, str] = {}
    last = min(max(numbers, default=-1), array.length - 1)
    if array.element_type != STRING:
        return texts
    with path.open("rb") as file:
        file.seek(array.start)
        for number in range(last + 1):
            raw = file.read(int.from_bytes(file.read(WIDTH[UINT64]), "little"))
            if number in numbers:
                texts[number] = raw.decode(errors="replace")
    return texts


def open_gguf(path: Path, mode: str = "r") -> Any:
    """Check a file and open it with gguf's reader, which reads every token: seconds for a large
    vocabulary. Raises Malformed.
    """
    from gguf import GGUFReader  # loads numpy

    read_gguf_header(path)
    return GGUFReader(path, mode)  # type: ignore[arg-type]


def _read_header(cursor: Cursor) -> Header:
    if cursor.data[:4] != MAGIC:
        raise Malformed("it doesn't begin with GGUF")
    cursor.position = 4
    version = cursor.number(UINT32)
    if version not in VERSIONS:
        raise Malformed(f"version {version}, known are 2 and 3, little-endian")
    tensor_count, key_count = cursor.number(UINT64), cursor.number(UINT64)
    _check_count("tensors", tensor_count, MOST_TENSORS, cursor.remaining // TENSOR_LEAST)
    _check_count("metadata keys", key_count, MOST_KEYS, cursor.remaining // KEY_LEAST)
    metadata, starts = _read_metadata(cursor, key_count)
    alignment, entries = _read_alignment(metadata), cursor.position
    check_metadata(metadata)
    tensors = _read_tensors(cursor, tensor_count)
    start = -(-cursor.position // alignment) * alignment
    _check_offsets(tensors, alignment, cursor.end - start)
    return Header(
        version, start, alignment, metadata, tuple(tensors), starts, entries, cursor.position
    )


def _check_count(unit: str, count: int, most: int, room: int) -> None:
    """Compare a count with the most that is allowed and with the most that the file has room for.

    Raises Malformed.
    """
    if count > min(most, room):
        raise Malformed(f"{count} {unit} where {max(0, min(most, room))} are possible")


def _decode_name(raw: bytes, subject: str) -> str:
    """Decode a printable UTF-8 name. Raises Malformed."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Malformed(f"{subject} isn't UTF-8") from None
    if not text or not text.isprintable():
        raise Malformed(f"{subject} is empty or not printable")
    return text


def _read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    """Read values by key, and where each begins (behind its type, bytes). Raises Malformed."""
    metadata: dict[str, Value] = {}
    starts: dict[str, int] = {}
    for _ in range(count):
        key = _decode_name(cursor.text(LONGEST_KEY), "a key")
        if key in metadata:
            raise Malformed(f"{key} stands there twice")
        starts[key] = cursor.position + WIDTH[UINT32]
        metadata[key] = _read_value(cursor, key)
    return metadata, starts


def _read_value(cursor: Cursor, key: str) -> Value:
    value_type = cursor.number(UINT32)
    if value_type == STRING:
        return cursor.text(LONGEST_TEXT)
    if value_type == ARRAY:
        return _skip_array(cursor, key)
    if value_type not in WIDTH:
        raise Malformed(f"{key} has the unknown type {value_type}")
    value: int | float | bool = cursor.number(value_type)
    return value


def _skip_array(cursor: Cursor, key: str) -> ArrayInfo:
    element_type, count = cursor.number(UINT32), cursor.number(UINT64)
    start = cursor.position
    if element_type == STRING:
        _check_count(f"texts in {key}", count, cursor.remaining, cursor.remaining // 8)
        cursor.skip_texts(count)
    elif element_type in WIDTH:
        room = cursor.remaining // WIDTH[element_type]
        _check_count(f"numbers in {key}", count, cursor.remaining, room)
        cursor.position += count * WIDTH[element_type]
    else:
        raise Malformed(f"{key} is a list of type {element_type}, which nobody reads")
    return ArrayInfo(element_type, count, start)


def _read_alignment(metadata: dict[str, Value]) -> int:
    """Return the alignment of the tensors' offsets in bytes. Raises Malformed."""
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 8 <= value <= LARGEST_ALIGNMENT or value & (value - 1):
        raise Malformed(
            f"general.alignment is {value!r}, a power of two from 8 to {LARGEST_ALIGNMENT} is "
            "wanted"
        )
    return value


def check_metadata(metadata: dict[str, Value]) -> None:
    """Compare the metadata that sizes memory with what a model can be. Raises Malformed."""
    raw = metadata.get("general.architecture")
    if not isinstance(raw, bytes) or not re.fullmatch(rb"[\w.-]{1,64}", raw):
        raise Malformed("general.architecture is not a name")
    architecture = raw.decode()
    for name, (least, most) in BOUNDS.items():
        value = metadata.get(f"{architecture}.{name}")
        if isinstance(value, int) and not least <= value <= most:
            raise Malformed(f"{architecture}.{name} is {value}, from {least} to {most} is possible")
        if isinstance(value, bytes | float | bool):
            raise Malformed(f"{architecture}.{name} is not a whole number")
    parts = metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise Malformed(f"it is one of {parts} parts: merge them first (llama-gguf-split --merge)")
    _check_vocabulary(metadata)


def _check_vocabulary(metadata: dict[str, Value]) -> None:
    """Check that the lists of tokens, scores and token types fit each other. Raises Malformed."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and (not isinstance(tokens, ArrayInfo) or tokens.element_type != STRING):
        raise Malformed("tokenizer.ggml.tokens is not a list of texts")
    for name, element_types in PER_TOKEN_TYPES.items():
        array = metadata.get(f"tokenizer.ggml.{name}")
        if array is None:
            continue
        if (
            not isinstance(array, ArrayInfo)
            or array.element_type not in element_types
            or tokens is None
            or array.length != tokens.length
        ):
            raise Malformed(f"tokenizer.ggml.{name} hasn't one number for each token")


def _read_tensors(cursor: Cursor, count: int) -> list[TensorInfo]:
    from gguf.constants import GGML_QUANT_SIZES  # loads numpy

    block_sizes = {int(number): pair for number, pair in GGML_QUANT_SIZES.items()}
    tensors: dict[str, TensorInfo] = {}
    for _ in range(count):
        name = _decode_name(cursor.text(LONGEST_NAME), "a tensor's name")
        if name in tensors:
            raise Malformed(f"tensor {name} stands there twice")
        tensors[name] = _read_tensor(cursor, name, block_sizes)
    return list(tensors.values())


def _read_tensor(cursor: Cursor, name: str, block_sizes: dict[int, tuple[int, int]]) -> TensorInfo:
    """Read a tensor's entry after its name. block_sizes: type -> elements and bytes of a block."""
    dims = cursor.number(UINT32)
    if not 1 <= dims <= MOST_DIMS:
        raise Malformed(f"tensor {name} has {dims} sides, from 1 to {MOST_DIMS} are possible")
    shape = tuple(cursor.number(UINT64) for _ in range(dims))
    entry = cursor.position
    tensor_type, offset = cursor.number(UINT32), cursor.number(UINT64)
    if tensor_type not in block_sizes:
        raise Malformed(f"tensor {name} has the unknown type {tensor_type}")
    size = _tensor_bytes(name, shape, *block_sizes[tensor_type])
    return TensorInfo(name, shape, tensor_type, offset, size, entry)


def _tensor_bytes(name: str, shape: tuple[int, ...], block: int, block_bytes: int) -> int:
    """Return a tensor's size in bytes. block: elements. Raises Malformed for impossible shapes."""
    for side in shape:
        if not 1 <= side <= LARGEST_SIDE:
            raise Malformed(f"tensor {name} has a side of {side}")
    if shape[0] % block:
        raise Malformed(f"tensor {name}: rows of {shape[0]} aren't whole blocks of {block}")
    return math.prod(shape) // block * block_bytes


def _check_offsets(tensors: list[TensorInfo], alignment: int, data_bytes: int) -> None:
    """Check that tensors are aligned, inside the data and apart from each other.

    Raises Malformed.
    """
    end = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if tensor.offset % alignment:
            raise Malformed(
                f"tensor {tensor.name} begins at {tensor.offset}, which isn't aligned to "
                f"{alignment}"
            )
        if tensor.offset < end:
            raise Malformed(f"tensor {tensor.name} lies over another one")
        end = tensor.offset + tensor.size
        if end > data_bytes:
            raise Malformed(
                f"tensor {tensor.name} ends at byte {end} of the data, which have "
                f"{max(0, data_bytes)}: truncated?"
            )
