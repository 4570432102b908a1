"""A GGUF's header, checked before anything of C maps the file: what it says of itself must fit the
file that it is in.

llama.cpp and gguf's reader trust counts, lengths and offsets to different degrees, and a file may
come from anywhere. Here every one is held against the file's size before it is used. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
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
WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)
MOST_TENSORS, MOST_KEYS = 1 << 20, 1 << 16
LONGEST_NAME, LONGEST_KEY, LONGEST_TEXT = (
    63,
    (1 << 16) - 1,
    16 << 20,
)  # ggml's names have 64 bytes with their end
LARGEST_ALIGNMENT, MOST_DIMS, LARGEST_SIDE = 1 << 16, 4, 1 << 40
TENSOR_LEAST, KEY_LEAST = 25, 13  # bytes that an entry has at the least
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
BESIDE = {"scores": (6,), "token_type": (4, 5)}  # read at every token's number


class Malformed(Infeasible, ValueError):
    """The file isn't what its header says, in one line. In a step it is a result: the same file is
    never sound later.
    """

    def __init__(self, message: str) -> None:
        super().__init__("refused", message)


@dataclass(frozen=True)
class Tensor:
    """One tensor: its sides (the row's length first), its type's number, offset into the data and
    size in bytes.
    """

    name: str
    sides: tuple[int, ...]
    kind: int
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """values: key -> a number, a bool, bytes (a text), or (element type, count) of an array; start:
    where the data begin.
    """

    version: int
    start: int
    alignment: int
    values: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


class Cursor:
    """Reads on through the mapped file, and never beyond its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.end = data, 0, len(data)

    @property
    def left(self) -> int:
        """Bytes that are still there."""
        return self.end - self.at

    def number(self, kind: int) -> Any:
        """A scalar of a GGUF value type."""
        width = WIDTH[kind]
        if self.left < width:
            raise Malformed("it ends within its header")
        if kind == BOOL and self.data[self.at] > 1:
            raise Malformed("a bool that is neither 0 nor 1")
        value = struct.unpack_from(CODES[kind], self.data, self.at)[0]
        self.at += width
        return value

    def text(self, most: int) -> bytes:
        """A string: its length in 8 bytes, then as many bytes."""
        length = self.number(10)
        if length > min(most, self.left):
            raise Malformed(f"a text of {length} bytes where {min(most, self.left)} are possible")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip_texts(self, count: int) -> None:
        """Strings that nobody reads; a vocabulary has some hundred thousand."""
        data, at, end = self.data, self.at, self.end
        for _ in range(count):
            if end - at < 8:
                raise Malformed("it ends within a list of texts")
            length = int.from_bytes(data[at : at + 8], "little")
            at += 8
            if length > min(LONGEST_TEXT, end - at):
                raise Malformed(
                    f"a text of {length} bytes where {min(LONGEST_TEXT, end - at)} are possible"
                )
            at += length
        self.at = at


def check(path: Path) -> Header:
    """Read and check a header. Raises Malformed in one line; OSError where there is no such file."""
    if path.stat().st_size < 24:
        raise Malformed(f"{path.name} is no GGUF: it has {path.stat().st_size} bytes")
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _header(Cursor(data))
        except Malformed as error:
            raise Malformed(f"{path.name} is no sound GGUF: {error}") from None


def reader(path: Path, mode: str = "r") -> Any:
    """gguf's reader of a checked file. Raises Malformed."""
    from gguf import GGUFReader

    check(path)
    return GGUFReader(path, mode)  # type: ignore[arg-type]


def _header(at: Cursor) -> Header:
    if at.data[:4] != MAGIC:
        raise Malformed("it doesn't begin with GGUF")
    at.at = 4
    version = at.number(4)
    if version not in VERSIONS:
        raise Malformed(f"version {version}, known are 2 and 3, little-endian")
    tensors, keys = at.number(10), at.number(10)
    _possible("tensors", tensors, MOST_TENSORS, at.left // TENSOR_LEAST)
    _possible("metadata keys", keys, MOST_KEYS, at.left // KEY_LEAST)
    values: dict[str, Any] = {}
    for _ in range(keys):
        key = _name(at.text(LONGEST_KEY), "a key")
        if key in values:
            raise Malformed(f"{key} stands there twice")
        values[key] = _value(at, key)
    alignment = _alignment(values)
    plausible(values)
    found = _tensors(at, tensors)
    start = -(-at.at // alignment) * alignment
    _laid_out(found, alignment, at.end - start)
    return Header(version, start, alignment, values, tuple(found))


def _possible(what: str, count: int, most: int, room: int) -> None:
    if count > min(most, room):
        raise Malformed(f"{count} {what} where {max(0, min(most, room))} are possible")


def _name(raw: bytes, what: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Malformed(f"{what} isn't UTF-8") from None
    if not text or not text.isprintable():
        raise Malformed(f"{what} is empty or not printable")
    return text


def _value(at: Cursor, key: str) -> Any:
    kind = at.number(4)
    if kind == STRING:
        return at.text(LONGEST_TEXT)
    if kind == ARRAY:
        inner, count = at.number(4), at.number(10)
        if inner == STRING:
            _possible(f"texts in {key}", count, at.left, at.left // 8)
            at.skip_texts(count)
        elif inner in WIDTH:
            _possible(f"numbers in {key}", count, at.left, at.left // WIDTH[inner])
            at.at += count * WIDTH[inner]
        else:
            raise Malformed(f"{key} is a list of type {inner}, which nobody reads")
        return inner, count
    if kind not in WIDTH:
        raise Malformed(f"{key} has the unknown type {kind}")
    return at.number(kind)


def _alignment(values: dict[str, Any]) -> int:
    found = values.get("general.alignment", 32)
    if type(found) is not int or not 8 <= found <= LARGEST_ALIGNMENT or found & (found - 1):
        raise Malformed(
            f"general.alignment is {found!r}, a power of two from 8 to {LARGEST_ALIGNMENT} is "
            "wanted"
        )
    return found


def plausible(values: dict[str, Any]) -> None:
    """Hold the metadata that sizes memory against what a model can be. Raises Malformed."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, bytes) or not re.fullmatch(rb"[\w.-]{1,64}", architecture):
        raise Malformed("general.architecture is no name")
    for name, (least, most) in BOUNDS.items():
        value = values.get(f"{architecture.decode()}.{name}")
        if isinstance(value, int) and not least <= value <= most:
            raise Malformed(
                f"{architecture.decode()}.{name} is {value}, from {least} to {most} is possible"
            )
        if isinstance(value, bytes | float | bool):
            raise Malformed(f"{architecture.decode()}.{name} is no whole number")
    if isinstance(values.get("split.count"), int) and values["split.count"] > 1:
        raise Malformed(
            f"it is one of {values['split.count']} parts: merge them first (llama-gguf-split "
            "--merge)"
        )
    tokens = values.get("tokenizer.ggml.tokens")
    if tokens is not None and (not isinstance(tokens, tuple) or tokens[0] != STRING):
        raise Malformed("tokenizer.ggml.tokens is no list of texts")
    for name, kinds in BESIDE.items():
        found = values.get(f"tokenizer.ggml.{name}")
        if found is None:
            continue
        if (
            not isinstance(found, tuple)
            or found[0] not in kinds
            or tokens is None
            or found[1] != tokens[1]
        ):
            raise Malformed(f"tokenizer.ggml.{name} hasn't one number for each token")


def _tensors(at: Cursor, count: int) -> list[Tensor]:
    from gguf.constants import GGML_QUANT_SIZES

    sizes = {int(kind): pair for kind, pair in GGML_QUANT_SIZES.items()}
    found: dict[str, Tensor] = {}
    for _ in range(count):
        name = _name(at.text(LONGEST_NAME), "a tensor's name")
        if name in found:
            raise Malformed(f"tensor {name} stands there twice")
        dims = at.number(4)
        if not 1 <= dims <= MOST_DIMS:
            raise Malformed(f"tensor {name} has {dims} sides, from 1 to {MOST_DIMS} are possible")
        sides = tuple(at.number(10) for _ in range(dims))
        kind, offset = at.number(4), at.number(10)
        if kind not in sizes:
            raise Malformed(f"tensor {name} has the unknown type {kind}")
        found[name] = Tensor(name, sides, kind, offset, _bytes(name, sides, *sizes[kind]))
    return list(found.values())


def _bytes(name: str, sides: tuple[int, ...], block: int, width: int) -> int:
    count = 1
    for side in sides:
        if not 1 <= side <= LARGEST_SIDE:
            raise Malformed(f"tensor {name} has a side of {side}")
        count *= side
    if sides[0] % block:
        raise Malformed(f"tensor {name}: rows of {sides[0]} aren't whole blocks of {block}")
    return count // block * width


def _laid_out(tensors: list[Tensor], alignment: int, room: int) -> None:
    """Aligned, inside the file, none over another."""
    at = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if tensor.offset % alignment:
            raise Malformed(
                f"tensor {tensor.name} begins at {tensor.offset}, which isn't aligned to "
                f"{alignment}"
            )
        if tensor.offset < at:
            raise Malformed(f"tensor {tensor.name} lies over another one")
        at = tensor.offset + tensor.size
        if at > room:
            raise Malformed(
                f"tensor {tensor.name} ends at byte {at} of the data, which have {max(0, room)}: "
                "truncated?"
            )
