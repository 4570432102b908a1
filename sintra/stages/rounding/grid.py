"""The grid of a ggml tensor type: where codes and scales lie in a block, and what they stand for.

A weight is `d * sub * level[code] + m * sub_min`. d and m are halves, one for each block; sub and
sub_min are small integers, one for each group of a block (1 where the type has none). The 4-bit
floats have no d, and a small float as sub. A code's bits lie in planes: a run of bytes, cut into
units, each unit holding one field of some bits at each of several shifts. In some types several
weights share a codeword: then not every row of codes can be stored
(sintra.stages.rounding.codebook). Layouts follow ggml's block structs (ggml-common.h) and are
checked in the tests against the gguf package's dequantizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.codebook import OCTET

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sintra.stages.rounding.codebook import Codebook

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
    sub: Ints | Floats  # scales of the groups, (n, groups): integers, or floats in FP4 types
    sub_min: Ints | Floats  # integer mins, (n, groups); 0 where the type has none


Split = Callable[["Bytes"], "tuple[Ints | Floats, Ints]"]
"""Blocks -> their integer scales and mins, (n, groups) each."""
Join = Callable[["Bytes", "Ints", "Ints"], None]
"""Writes integer scales and mins, (n, groups) each, into blocks."""
Values = range | tuple[float, ...]
"""What a scale may be, ascending."""


@dataclass(frozen=True)
class Grid:
    """A tensor type of ggml."""

    name: str  # ggml's name
    block: int  # weights of a block
    size: int  # bytes of a block
    group: int  # weights that share an integer scale
    planes: tuple[Plane, ...]  # where the codes lie
    levels: tuple[float, ...]  # the values of the codes, ascending
    d_at: int = -1  # byte of d; -1: d is always 1
    m_at: int = -1  # byte of m; -1: the type has no mins
    sign: int = 1  # the sign with which m is stored
    first: int = 0  # the code of levels[0], modulo 256
    sub_values: Values | None = None  # what the groups' scales may be; None: there are none
    min_values: range | None = None  # what the integer mins may be; None: there are none
    split: Split | None = field(default=None, repr=False)  # reads the integer scales and mins
    join: Join | None = field(default=None, repr=False)  # writes them
    codebook: Codebook | None = field(default=None, repr=False)  # of several weights each

    @property
    def groups(self) -> int:
        """Return the number of groups of a block."""
        return self.block // self.group

    @property
    def together(self) -> int:
        """Return how many weights are chosen together."""
        return OCTET if self.codebook else 1

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
        d = read_half(blocks, self.d_at) if self.d_at >= 0 else np.ones(len(blocks), np.float32)
        m = self.sign * read_half(blocks, self.m_at) if self.m_at >= 0 else np.zeros_like(d)
        return Scales(d, m, sub, sub_min if self.m_at >= 0 else np.zeros_like(ones))

    def write_scales(self, blocks: Bytes, scales: Scales) -> None:
        """Replace the scales of raw blocks in place.

        d and m must be halves exactly, sub and sub_min of the allowed values.
        """
        if self.d_at >= 0:
            write_half(blocks, self.d_at, scales.d)
        if self.m_at >= 0:
            write_half(blocks, self.m_at, self.sign * scales.m)
        if self.join:
            sub, sub_min = (np.rint(x).astype(np.int64) for x in (scales.sub, scales.sub_min))
            self.join(blocks, sub, sub_min)

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


def read_half(blocks: Bytes, at: int) -> Floats:
    """Return a half of each block, (n,) float32."""
    value: Floats = blocks[:, at : at + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return value


def write_half(blocks: Bytes, at: int, values: Floats) -> None:
    """Write a half of each block; values: (n,)."""
    blocks[:, at : at + 2] = values.astype(np.float16)[:, None].view(np.uint8)


def bit_fields(part: Bytes, shifts: tuple[int, ...], mask: int) -> Ints:
    """Return the bit fields of bytes (n, bytes), shift after shift, (n, shifts * bytes)."""
    spread = part[:, None, :].astype(np.int64) >> np.array(shifts).reshape(1, -1, 1)
    fields: Ints = (spread & mask).reshape(len(part), -1)
    return fields
