"""The grids of ggml's tensor types: where codes and scales lie in a block, and what they stand for.

A weight is `d * sub * level[code] + m * sub_min`. d and m are halves, one for each block; sub and
sub_min are small integers, one for each group of a block (1 where the type has none). A code's bits
lie in planes: a run of bytes, cut into units, each unit holding one field of some bits at each of
several shifts. Layouts follow ggml's block structs (ggml-common.h) and are checked in the tests
against the gguf package's dequantizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]  # raw blocks, (n, bytes of a block)
    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]
else:
    np = lazy.module("numpy")


class Plane(NamedTuple):
    """The bytes of a block that hold some bits of its codes."""

    start: int  # first byte
    stop: int  # byte behind the last
    unit: int  # bytes of a unit
    shifts: tuple[int, ...]  # where a byte's fields begin, bits
    bits: int  # width of a field
    at: int = 0  # the bit of the code at which a field is placed


class Scales(NamedTuple):
    """The scales of n blocks."""

    d: Floats  # scale of each block, (n,)
    m: Floats  # min of each block, (n,); 0 where the type has none
    sub: Ints  # integer scales, (n, groups)
    sub_min: Ints  # integer mins, (n, groups); 0 where the type has none


Split = Callable[["Bytes"], "tuple[Ints, Ints]"]
"""Blocks -> their integer scales and mins, (n, groups) each."""
Join = Callable[["Bytes", "Ints", "Ints"], None]
"""Writes integer scales and mins, (n, groups) each, into blocks."""


@dataclass(frozen=True)
class Grid:
    """A tensor type of ggml."""

    name: str  # ggml's name
    block: int  # weights of a block
    size: int  # bytes of a block
    group: int  # weights that share an integer scale
    planes: tuple[Plane, ...]  # where the codes lie
    levels: tuple[int, ...]  # the values of the codes, ascending
    d_at: int  # byte of d
    m_at: int = -1  # byte of m; -1: the type has no mins
    sign: int = 1  # the sign with which m is stored
    first: int = 0  # the code of levels[0], modulo 256
    limits: tuple[int, int] | None = None  # range of the integer scales; None: there are none
    min_limits: tuple[int, int] | None = None  # range of the integer mins; None: there are none
    split: Split | None = field(default=None, repr=False)  # reads the integer scales and mins
    join: Join | None = field(default=None, repr=False)  # writes them

    @property
    def groups(self) -> int:
        """Return the number of groups of a block."""
        return self.block // self.group

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of the file per weight."""
        return 8 * self.size / self.block

    def codes(self, blocks: Bytes) -> Ints:
        """Return the codes of raw blocks as indices into the levels, (n, weights of a block)."""
        code = np.zeros((len(blocks), self.block), np.int64)
        for plane in self.planes:
            part = blocks[:, plane.start : plane.stop].reshape(len(blocks), -1, 1, plane.unit)
            shifts = np.array(plane.shifts, np.uint8).reshape(1, 1, -1, 1)
            bits = (part >> shifts) & np.uint8((1 << plane.bits) - 1)
            code |= bits.reshape(len(blocks), -1).astype(np.int64) << plane.at
        return (code - self.first) & 0xFF if self.first else code

    def write_codes(self, blocks: Bytes, indices: Ints) -> None:
        """Replace the codes of raw blocks in place; indices: (n, weights of a block)."""
        code = (indices + self.first) & 0xFF
        for plane in self.planes:
            part = (code >> plane.at) & ((1 << plane.bits) - 1)
            shaped = part.reshape(len(blocks), -1, len(plane.shifts), plane.unit)
            shifts = np.array(plane.shifts).reshape(1, 1, -1, 1)
            packed = (shaped << shifts).sum(2).astype(np.uint8)
            blocks[:, plane.start : plane.stop] = packed.reshape(len(blocks), -1)

    def scales(self, blocks: Bytes) -> Scales:
        """Return the scales of raw blocks."""
        ones = np.ones((len(blocks), self.groups), np.int64)
        sub, sub_min = self.split(blocks) if self.split else (ones, ones)
        d = _half(blocks, self.d_at)
        m = self.sign * _half(blocks, self.m_at) if self.m_at >= 0 else np.zeros_like(d)
        return Scales(d, m, sub, sub_min if self.m_at >= 0 else np.zeros_like(ones))

    def write_scales(self, blocks: Bytes, scales: Scales) -> None:
        """Replace the scales of raw blocks in place; d and m must be halves exactly."""
        _write_half(blocks, self.d_at, scales.d)
        if self.m_at >= 0:
            _write_half(blocks, self.m_at, self.sign * scales.m)
        if self.join:
            self.join(blocks, scales.sub, scales.sub_min)

    def weights(self, blocks: Bytes) -> Floats:
        """Return the weights that raw blocks stand for, (n, weights of a block) float32."""
        scales = self.scales(blocks)
        level = np.array(self.levels, np.float32)[self.codes(blocks)].reshape(
            len(blocks), self.groups, self.group
        )
        scale = (scales.d[:, None] * scales.sub.astype(np.float32))[:, :, None]
        offset = (scales.m[:, None] * scales.sub_min.astype(np.float32))[:, :, None]
        weights: Floats = (scale * level + offset).reshape(len(blocks), self.block)
        return weights


def _half(blocks: Bytes, at: int) -> Floats:
    value: Floats = blocks[:, at : at + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return value


def _write_half(blocks: Bytes, at: int, values: Floats) -> None:
    blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


def _fields(part: Bytes, shifts: tuple[int, ...], mask: int) -> Ints:
    """Return the bit fields of bytes (n, bytes), shift after shift, (n, shifts * bytes)."""
    spread = part[:, None, :].astype(np.int64) >> np.array(shifts).reshape(1, -1, 1)
    fields: Ints = (spread & mask).reshape(len(part), -1)
    return fields


def _split_q2(blocks: Bytes) -> tuple[Ints, Ints]:
    raw = blocks[:, :16].astype(np.int64)
    return raw & 15, raw >> 4


def _join_q2(blocks: Bytes, sub: Ints, mins: Ints) -> None:
    blocks[:, :16] = (sub | (mins << 4)).astype(np.uint8)


def _split_q3(blocks: Bytes) -> tuple[Ints, Ints]:
    sub = _fields(blocks[:, 96:104], (0, 4), 15) | (
        _fields(blocks[:, 104:108], (0, 2, 4, 6), 3) << 4
    )
    return sub - 32, np.zeros_like(sub)


def _join_q3(blocks: Bytes, sub: Ints, _: Ints) -> None:
    raw = sub + 32
    blocks[:, 96:104] = (raw[:, :8] & 15 | (raw[:, 8:] & 15) << 4).astype(np.uint8)
    high = (raw >> 4).reshape(len(raw), 4, 4)
    blocks[:, 104:108] = (high << np.array([0, 2, 4, 6]).reshape(1, 4, 1)).sum(1).astype(np.uint8)


def _split_q4(blocks: Bytes) -> tuple[Ints, Ints]:
    raw = blocks[:, 4:16].astype(np.int64)
    a, b, c = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    sub = np.concatenate([a & 63, (c & 15) | ((a >> 2) & 48)], 1)
    return sub, np.concatenate([b & 63, (c >> 4) | ((b >> 2) & 48)], 1)


def _join_q4(blocks: Bytes, sub: Ints, mins: Ints) -> None:
    a = sub[:, :4] | (sub[:, 4:] >> 4) << 6
    b = mins[:, :4] | (mins[:, 4:] >> 4) << 6
    c = (sub[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    blocks[:, 4:16] = np.concatenate([a, b, c], 1).astype(np.uint8)


def _split_q6(blocks: Bytes) -> tuple[Ints, Ints]:
    sub = blocks[:, 192:208].copy().view(np.int8).astype(np.int64)
    return sub, np.zeros_like(sub)


def _join_q6(blocks: Bytes, sub: Ints, _: Ints) -> None:
    blocks[:, 192:208] = sub.astype(np.int8).view(np.uint8)


def _split_iq4(blocks: Bytes) -> tuple[Ints, Ints]:
    high = blocks[:, 2].astype(np.int64) | blocks[:, 3].astype(np.int64) << 8
    low = (
        np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], 2)
        .reshape(len(blocks), 8)
        .astype(np.int64)
    )
    sub = low | ((high[:, None] >> np.arange(0, 16, 2)) & 3) << 4
    return sub - 32, np.zeros_like(sub)


def _join_iq4(blocks: Bytes, sub: Ints, _: Ints) -> None:
    raw = sub + 32
    high = ((raw >> 4) << np.arange(0, 16, 2)).sum(1)
    blocks[:, 2], blocks[:, 3] = high & 255, high >> 8
    low = (raw & 15).reshape(len(raw), 4, 2)
    blocks[:, 4:8] = low[:, :, 0] | low[:, :, 1] << 4


NIBBLES, PAIRS, SINGLES = (0, 4), (0, 2, 4, 6), tuple(range(8))  # shifts of 4, 2 and 1 bits
# The 16 levels of the non-linear 4-bit types (ggml's kvalues_iq4nl).
CURVED = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _simple(
    name: str, planes: tuple[Plane, ...], levels: Iterable[int], m_at: int = -1, first: int = 0
) -> Grid:
    """Return a type of 32 weights a block with d at its begin and no sub-scales."""
    size = max(plane.stop for plane in planes)
    return Grid(name, 32, size, 32, planes, tuple(levels), d_at=0, m_at=m_at, first=first)


GRIDS = {
    grid.name: grid
    for grid in (
        _simple("Q4_0", (Plane(2, 18, 16, NIBBLES, 4),), range(-8, 8)),
        _simple("Q4_1", (Plane(4, 20, 16, NIBBLES, 4),), range(16), m_at=2),
        _simple(
            "Q5_0",
            (Plane(6, 22, 16, NIBBLES, 4), Plane(2, 6, 1, SINGLES, 1, at=4)),
            range(-16, 16),
        ),
        _simple(
            "Q5_1",
            (Plane(8, 24, 16, NIBBLES, 4), Plane(4, 8, 1, SINGLES, 1, at=4)),
            range(32),
            m_at=2,
        ),
        _simple("Q8_0", (Plane(2, 34, 32, (0,), 8),), range(-127, 128), first=-127),
        _simple("IQ4_NL", (Plane(2, 18, 16, NIBBLES, 4),), CURVED),
        Grid(
            "Q2_K",
            block=256,
            size=84,
            group=16,
            planes=(Plane(16, 80, 32, PAIRS, 2),),
            levels=tuple(range(4)),
            d_at=80,
            m_at=82,
            sign=-1,
            limits=(0, 15),
            min_limits=(0, 15),
            split=_split_q2,
            join=_join_q2,
        ),
        Grid(
            "Q3_K",
            block=256,
            size=110,
            group=16,
            planes=(Plane(32, 96, 32, PAIRS, 2), Plane(0, 32, 32, SINGLES, 1, at=2)),
            levels=tuple(range(-4, 4)),
            d_at=108,
            limits=(-32, 31),
            split=_split_q3,
            join=_join_q3,
        ),
        Grid(
            "Q4_K",
            block=256,
            size=144,
            group=32,
            planes=(Plane(16, 144, 32, NIBBLES, 4),),
            levels=tuple(range(16)),
            d_at=0,
            m_at=2,
            sign=-1,
            limits=(0, 63),
            min_limits=(0, 63),
            split=_split_q4,
            join=_join_q4,
        ),
        Grid(
            "Q5_K",
            block=256,
            size=176,
            group=32,
            planes=(Plane(48, 176, 32, NIBBLES, 4), Plane(16, 48, 32, SINGLES, 1, at=4)),
            levels=tuple(range(32)),
            d_at=0,
            m_at=2,
            sign=-1,
            limits=(0, 63),
            min_limits=(0, 63),
            split=_split_q4,
            join=_join_q4,
        ),
        Grid(
            "Q6_K",
            block=256,
            size=210,
            group=16,
            planes=(Plane(0, 128, 64, NIBBLES, 4), Plane(128, 192, 32, PAIRS, 2, at=4)),
            levels=tuple(range(-32, 32)),
            d_at=208,
            limits=(-128, 127),
            split=_split_q6,
            join=_join_q6,
        ),
        Grid(
            "IQ4_XS",
            block=256,
            size=136,
            group=32,
            planes=(Plane(8, 136, 16, NIBBLES, 4),),
            levels=CURVED,
            d_at=0,
            limits=(-32, 31),
            split=_split_iq4,
            join=_join_iq4,
        ),
    )
}
"""The grids by tensor type."""
