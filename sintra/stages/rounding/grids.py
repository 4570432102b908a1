"""The grids of ggml's tensor types: where the integers and the scales of a block lie, and what
weight they stand for.

A weight is `d * sub_scale * level[code] + m * sub_min`. d and m are halves, one for each block;
sub_scale and sub_min are small integers, one for each group of a block (1 where the type has none).
A code's bits lie in planes: a run of bytes, cut into units, each unit holding one field of some
bits at each of several shifts. Layouts follow ggml's block structs (ggml-common.h) and are checked
in the tests against the gguf package's dequantizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]
else:
    np = lazy.module("numpy")


class Plane(NamedTuple):
    """Part of the codes: bytes start..stop, in units, a field of `bits` at each shift, placed at
    bit `at` of the code.
    """

    start: int
    stop: int
    unit: int
    shifts: tuple[int, ...]
    bits: int
    at: int = 0


class Scales(NamedTuple):
    """The scales of n blocks: d, m (n,) float32; sub, sub_min (n, groups) integers."""

    d: Floats
    m: Floats
    sub: Ints
    sub_min: Ints


Split = Callable[["Bytes"], "tuple[Ints, Ints]"]
Join = Callable[["Bytes", "Ints", "Ints"], None]


@dataclass(frozen=True)
class Grid:
    """A tensor type. block: weights; size: bytes of a block; group: weights that share a scale.

    levels: the values of the sorted codes; first: the code of levels[0] modulo 256; d_at, m_at:
    byte offsets (m_at -1: no offset); sign: of m; limits, min_limits: ranges of the sub-scales
    (None: there are none).
    """

    name: str
    block: int
    size: int
    group: int
    planes: tuple[Plane, ...]
    levels: tuple[int, ...]
    d_at: int
    m_at: int = -1
    sign: int = 1
    first: int = 0
    limits: tuple[int, int] | None = None
    min_limits: tuple[int, int] | None = None
    split: Split | None = field(default=None, repr=False)
    join: Join | None = field(default=None, repr=False)

    @property
    def groups(self) -> int:
        """Groups of a block."""
        return self.block // self.group

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight."""
        return 8 * self.size / self.block

    def codes(self, blocks: Bytes) -> Ints:
        """Indices into levels, (n, block), of raw blocks (n, size)."""
        code = np.zeros((len(blocks), self.block), np.int64)
        for plane in self.planes:
            part = blocks[:, plane.start : plane.stop].reshape(len(blocks), -1, 1, plane.unit)
            shifts = np.array(plane.shifts, np.uint8).reshape(1, 1, -1, 1)
            bits = (part >> shifts) & np.uint8((1 << plane.bits) - 1)
            code |= bits.reshape(len(blocks), -1).astype(np.int64) << plane.at
        return (code - self.first) & 0xFF if self.first else code

    def write_codes(self, blocks: Bytes, indices: Ints) -> None:
        """Replace the codes of raw blocks in place."""
        code = (indices + self.first) & 0xFF
        for plane in self.planes:
            part = (code >> plane.at) & ((1 << plane.bits) - 1)
            shaped = part.reshape(len(blocks), -1, len(plane.shifts), plane.unit)
            shifts = np.array(plane.shifts).reshape(1, 1, -1, 1)
            packed = (shaped << shifts).sum(2).astype(np.uint8)
            blocks[:, plane.start : plane.stop] = packed.reshape(len(blocks), -1)

    def scales(self, blocks: Bytes) -> Scales:
        """The scales of raw blocks."""
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
        """The weights that raw blocks stand for, (n, block)."""
        s = self.scales(blocks)
        level = np.array(self.levels, np.float32)[self.codes(blocks)].reshape(
            len(blocks), self.groups, self.group
        )
        scale = (s.d[:, None] * s.sub.astype(np.float32))[:, :, None]
        offset = (s.m[:, None] * s.sub_min.astype(np.float32))[:, :, None]
        weights: Floats = (scale * level + offset).reshape(len(blocks), self.block)
        return weights


def _half(blocks: Bytes, at: int) -> Floats:
    value: Floats = blocks[:, at : at + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return value


def _write_half(blocks: Bytes, at: int, values: Floats) -> None:
    blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


def _fields(part: Bytes, shifts: tuple[int, ...], mask: int) -> Ints:
    """(n, bytes) -> (n, shifts * bytes), the fields of one shift together."""
    spread = part[:, None, :].astype(np.int64) >> np.array(shifts).reshape(1, -1, 1)
    found: Ints = (spread & mask).reshape(len(part), -1)
    return found


def _split_q2(blocks: Bytes) -> tuple[Ints, Ints]:
    raw = blocks[:, :16].astype(np.int64)
    return raw & 15, raw >> 4


def _join_q2(blocks: Bytes, sub: Ints, low: Ints) -> None:
    blocks[:, :16] = (sub | (low << 4)).astype(np.uint8)


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


def _join_q4(blocks: Bytes, sub: Ints, low: Ints) -> None:
    a = sub[:, :4] | (sub[:, 4:] >> 4) << 6
    b = low[:, :4] | (low[:, 4:] >> 4) << 6
    c = (sub[:, 4:] & 15) | (low[:, 4:] & 15) << 4
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


NIBBLES, PAIRS, SINGLES = (0, 4), (0, 2, 4, 6), tuple(range(8))
# The 16 levels of the non-linear 4-bit types (ggml's kvalues_iq4nl).
CURVED = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

GRIDS = {
    g.name: g
    for g in (
        Grid("Q4_0", 32, 18, 32, (Plane(2, 18, 16, NIBBLES, 4),), tuple(range(-8, 8)), 0),
        Grid("Q4_1", 32, 20, 32, (Plane(4, 20, 16, NIBBLES, 4),), tuple(range(16)), 0, 2),
        Grid(
            "Q5_0",
            32,
            22,
            32,
            (Plane(6, 22, 16, NIBBLES, 4), Plane(2, 6, 1, SINGLES, 1, 4)),
            tuple(range(-16, 16)),
            0,
        ),
        Grid(
            "Q5_1",
            32,
            24,
            32,
            (Plane(8, 24, 16, NIBBLES, 4), Plane(4, 8, 1, SINGLES, 1, 4)),
            tuple(range(32)),
            0,
            2,
        ),
        Grid(
            "Q8_0", 32, 34, 32, (Plane(2, 34, 32, (0,), 8),), tuple(range(-127, 128)), 0, first=-127
        ),
        Grid("IQ4_NL", 32, 18, 32, (Plane(2, 18, 16, NIBBLES, 4),), CURVED, 0),
        Grid(
            "Q2_K",
            256,
            84,
            16,
            (Plane(16, 80, 32, PAIRS, 2),),
            tuple(range(4)),
            80,
            82,
            -1,
            limits=(0, 15),
            min_limits=(0, 15),
            split=_split_q2,
            join=_join_q2,
        ),
        Grid(
            "Q3_K",
            256,
            110,
            16,
            (Plane(32, 96, 32, PAIRS, 2), Plane(0, 32, 32, SINGLES, 1, 2)),
            tuple(range(-4, 4)),
            108,
            limits=(-32, 31),
            split=_split_q3,
            join=_join_q3,
        ),
        Grid(
            "Q4_K",
            256,
            144,
            32,
            (Plane(16, 144, 32, NIBBLES, 4),),
            tuple(range(16)),
            0,
            2,
            -1,
            limits=(0, 63),
            min_limits=(0, 63),
            split=_split_q4,
            join=_join_q4,
        ),
        Grid(
            "Q5_K",
            256,
            176,
            32,
            (Plane(48, 176, 32, NIBBLES, 4), Plane(16, 48, 32, SINGLES, 1, 4)),
            tuple(range(32)),
            0,
            2,
            -1,
            limits=(0, 63),
            min_limits=(0, 63),
            split=_split_q4,
            join=_join_q4,
        ),
        Grid(
            "Q6_K",
            256,
            210,
            16,
            (Plane(0, 128, 64, NIBBLES, 4), Plane(128, 192, 32, PAIRS, 2, 4)),
            tuple(range(-32, 32)),
            208,
            limits=(-128, 127),
            split=_split_q6,
            join=_join_q6,
        ),
        Grid(
            "IQ4_XS",
            256,
            136,
            32,
            (Plane(8, 136, 16, NIBBLES, 4),),
            CURVED,
            0,
            limits=(-32, 31),
            split=_split_iq4,
            join=_join_iq4,
        ),
    )
}
