"""The 4-bit floats of ggml: MXFP4 and NVFP4.

A weight is a float of one sign, two exponent and one mantissa bit (E2M1), times its group's scale:
a power of two (E8M0) for 32 weights of MXFP4, a float of four exponent and three mantissa bits
(E4M3, without sign) for 16 of NVFP4. As in ggml, levels are twice the floats and scales half of
what their bytes say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.stages.rounding.grid import Grid, Plane, Scales

if TYPE_CHECKING:
    import numpy as np

    from sintra.stages.rounding.grid import Bytes, Floats, Ints
else:
    np = lazy.module("numpy")

SIZES = (0, 1, 2, 3, 4, 6, 8, 12)  # of the codes 0 to 7; those from 8 on are negative
LEVELS = (*(-x for x in reversed(SIZES[1:])), *SIZES)
MINUS = 8  # the bit of the sign; a code of it alone is 0, too, and is never written
LARGEST_E4M3 = 0x7E  # the byte of 448; the next stands for no number, which ggml reads as 0


def e8m0(byte: int) -> float:
    """Return half of the power of two that a byte stands for."""
    return float(2.0 ** (byte - 128))


def e4m3(byte: int) -> float:
    """Return half of the float that a byte stands for, without sign."""
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if exponent == 0:
        return float(mantissa * 2.0**-10)
    return float((8 + mantissa) * 2.0 ** (exponent - 11))


# Bytes of E8M0 whose halves are normal numbers of single precision.
POWERS = tuple(e8m0(byte) for byte in range(2, 255))
FLOATS = tuple(e4m3(byte) for byte in range(LARGEST_E4M3 + 1))


@dataclass(frozen=True)
class FloatGrid(Grid):
    """A tensor type whose groups' scales are the bytes at a block's begin."""

    first_byte: int = 0  # the byte of the first of sub_values

    def codes(self, blocks: Bytes) -> Ints:
        """Return the codes of raw blocks as indices into the levels, (n, weights of a block)."""
        nibbles = super().codes(blocks)
        size = nibbles & (MINUS - 1)
        codes: Ints = MINUS - 1 + np.where(nibbles & MINUS, -size, size)
        return codes

    def write_codes(self, blocks: Bytes, indices: Ints) -> None:
        """Replace the codes of raw blocks in place; indices: (n, weights of a block)."""
        level = indices - (MINUS - 1)
        super().write_codes(blocks, abs(level) | np.where(level < 0, MINUS, 0))

    def scales(self, blocks: Bytes) -> Scales:
        """Return the scales of raw blocks; d is 1, and 0 is what isn't of sub_values."""
        sub: Floats = self._byte_values()[blocks[:, : self.groups]]
        return super().scales(blocks)._replace(sub=sub)

    def write_scales(self, blocks: Bytes, scales: Scales) -> None:
        """Replace the scales of raw blocks in place; they must be of sub_values."""
        allowed = slice(self.first_byte, self.first_byte + len(self.sub_values or ()))
        found = np.searchsorted(self._byte_values()[allowed], np.asarray(scales.sub, np.float32))
        blocks[:, : self.groups] = self.first_byte + found

    def _byte_values(self) -> Floats:
        """Return what each byte stands for, (256,)."""
        known, values = self.sub_values or (), np.zeros(256, np.float32)
        values[self.first_byte : self.first_byte + len(known)] = known
        return values


FLOAT_GRIDS = (
    FloatGrid(
        "MXFP4",
        block=32,
        size=17,
        group=32,
        planes=(Plane(1, 17, 16, (0, 4), 4),),
        levels=LEVELS,
        sub_values=POWERS,
        first_byte=2,
    ),
    FloatGrid(
        "NVFP4",
        block=64,
        size=36,
        group=16,
        planes=(Plane(4, 36, 8, (0, 4), 4),),
        levels=LEVELS,
        sub_values=FLOATS,
    ),
)
"""The grids of 4-bit floats."""
