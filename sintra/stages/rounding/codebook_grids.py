"""The layouts of ggml's types with codebooks: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S.

A weight is `d * sub * size` with its sign; sub is an odd integer from 1 to 31. ggml has the half of
that, times a power of two, which here belongs to the sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.stages.rounding.codebook import OCTET, Codebook
from sintra.stages.rounding.grid import Grid, bit_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sintra.stages.rounding.grid import Bytes, Ints
else:
    np = lazy.module("numpy")

Unpack = Callable[["Bytes"], "tuple[Ints, Bytes]"]
"""Blocks -> codewords (n, codewords of a block), and whether weights are negative (n, block)."""
Pack = Callable[["Bytes", "Ints", "Bytes"], None]
"""Writes codewords and signs into blocks."""

ODD = range(1, 32, 2)  # what the scale of a group may be
SEVEN = 7  # signs of an octet that are stored where the number of minus signs is even


@dataclass(frozen=True)
class CodebookGrid(Grid):
    """A tensor type with a codebook. Its codewords and signs are read and written by functions."""

    unpack: Unpack | None = field(default=None, repr=False)
    pack: Pack | None = field(default=None, repr=False)

    def codes(self, blocks: Bytes) -> Ints:
        """Return the codes of raw blocks as indices into the levels, (n, weights of a block)."""
        assert self.codebook
        assert self.unpack
        return self.codebook.unpacked(*self.unpack(blocks))

    def write_codes(self, blocks: Bytes, indices: Ints) -> None:
        """Replace the codes of raw blocks in place; indices: (n, weights of a block)."""
        assert self.codebook
        assert self.pack
        self.pack(blocks, *self.codebook.packed(indices))


def _fields(blocks: Bytes, start: int, stop: int, kind: str) -> NDArray[Any]:
    """Return some bytes of each block as integers of a numpy type, (n, integers)."""
    return np.ascontiguousarray(blocks[:, start:stop]).view(kind)


def _last_sign(stored: Bytes) -> Bytes:
    """Add the sign that makes the number of minus signs even to seven, (n, 7 * octets)."""
    seven = stored.reshape(len(stored), -1, SEVEN)
    return np.concatenate([seven, seven.sum(2, keepdims=True) & 1], 2).reshape(len(stored), -1)


def _seven_signs(minus: Bytes) -> Ints:
    """Return the signs that are stored of each octet, as the bits of an integer, (n, octets)."""
    seven = minus.reshape(len(minus), -1, OCTET)[:, :, :SEVEN].astype(np.int64)
    signs: Ints = (seven << np.arange(SEVEN)).sum(2)
    return signs


def _bits(values: NDArray[Any], count: int) -> Bytes:
    """Return the lowest bits of integers (n, integers), the lowest first, (n, integers * count)."""
    bits = (values.astype(np.int64)[:, :, None] >> np.arange(count)) & 1
    return bits.reshape(len(values), -1).astype(np.uint8)


def _tail(minus: Bytes, before: NDArray[Any]) -> Ints:
    """Return 32-bit words of four octets' signs, with the scales of those before, (n, groups)."""
    signs = _seven_signs(minus).reshape(len(minus), -1, 4)
    words: Ints = (signs << (SEVEN * np.arange(4))).sum(2) | (before.astype(np.int64) >> 28) << 28
    return words


def _with_scales(tails: NDArray[Any], sub: Ints) -> NDArray[Any]:
    """Return 32-bit words with other scales in their highest four bits, (n, groups)."""
    return (tails & np.uint32(0x0FFFFFFF)) | ((sub >> 1) << 28).astype(np.uint32)


def _no_mins(sub: Ints) -> tuple[Ints, Ints]:
    return sub, np.zeros_like(sub)


def _unpack_2xxs(blocks: Bytes) -> tuple[Ints, Bytes]:
    pairs = _fields(blocks, 2, 66, "<u4").reshape(len(blocks), -1, 2)
    numbers = np.ascontiguousarray(pairs[:, :, 0]).view(np.uint8).astype(np.int64)
    return numbers, _last_sign(_bits(pairs[:, :, 1], 4 * SEVEN))


def _pack_2xxs(blocks: Bytes, numbers: Ints, minus: Bytes) -> None:
    pairs = _fields(blocks, 2, 66, "<u4").reshape(len(blocks), -1, 2).copy()
    pairs[:, :, 0] = numbers.astype(np.uint8).view("<u4")
    pairs[:, :, 1] = _tail(minus, pairs[:, :, 1])
    blocks[:, 2:66] = pairs.view(np.uint8).reshape(len(blocks), -1)


def _split_2xxs(blocks: Bytes) -> tuple[Ints, Ints]:
    tails = _fields(blocks, 2, 66, "<u4")[:, 1::2].astype(np.int64)
    return _no_mins(2 * (tails >> 28) + 1)


def _join_2xxs(blocks: Bytes, sub: Ints, _: Ints) -> None:
    words = _fields(blocks, 2, 66, "<u4").copy()
    words[:, 1::2] = _with_scales(words[:, 1::2], sub)
    blocks[:, 2:66] = words.view(np.uint8)


def _unpack_3xxs(blocks: Bytes) -> tuple[Ints, Bytes]:
    signs = _bits(_fields(blocks, 66, 98, "<u4"), 4 * SEVEN)
    return blocks[:, 2:66].astype(np.int64), _last_sign(signs)


def _pack_3xxs(blocks: Bytes, numbers: Ints, minus: Bytes) -> None:
    blocks[:, 2:66] = numbers
    tails = _tail(minus, _fields(blocks, 66, 98, "<u4"))
    blocks[:, 66:98] = tails.astype("<u4").view(np.uint8)


def _split_3xxs(blocks: Bytes) -> tuple[Ints, Ints]:
    return _no_mins(2 * (_fields(blocks, 66, 98, "<u4").astype(np.int64) >> 28) + 1)


def _join_3xxs(blocks: Bytes, sub: Ints, _: Ints) -> None:
    tails = _with_scales(_fields(blocks, 66, 98, "<u4"), sub)
    blocks[:, 66:98] = tails.astype("<u4").view(np.uint8)


def _unpack_2xs(blocks: Bytes) -> tuple[Ints, Bytes]:
    words = _fields(blocks, 2, 66, "<u2").astype(np.int64)
    return words & 511, _last_sign(_bits(words >> 9, SEVEN))


def _pack_2xs(blocks: Bytes, numbers: Ints, minus: Bytes) -> None:
    words = numbers | _seven_signs(minus) << 9
    blocks[:, 2:66] = words.astype("<u2").view(np.uint8)


def _nibble_scales(first: int) -> dict[str, Any]:
    """Return split and join of a type whose scales are nibbles from a byte to the block's end."""

    def split(blocks: Bytes) -> tuple[Ints, Ints]:
        raw = blocks[:, first:]
        nibbles = np.stack([raw & 15, raw >> 4], 2).reshape(len(blocks), -1)
        return _no_mins(2 * nibbles.astype(np.int64) + 1)

    def join(blocks: Bytes, sub: Ints, _: Ints) -> None:
        pairs = (sub >> 1).reshape(len(blocks), -1, 2)
        blocks[:, first:] = pairs[:, :, 0] | pairs[:, :, 1] << 4

    return {"split": split, "join": join}


def _whole_signs(signs_at: int, high_at: int, shifts: tuple[int, ...]) -> dict[str, Any]:
    """Return unpack and pack of a type with all signs.

    Codewords' lowest eight bits begin at byte 2, those above them at `high_at`, as many fields in a
    byte as there are shifts; signs begin at byte `signs_at`.
    """
    mask = (1 << 8 // len(shifts)) - 1

    def unpack(blocks: Bytes) -> tuple[Ints, Bytes]:
        low = blocks[:, 2 : 2 + 8 * len(shifts)].astype(np.int64)
        by_shift = bit_fields(blocks[:, high_at : high_at + 8], shifts, mask)
        high = by_shift.reshape(len(blocks), len(shifts), 8).transpose(0, 2, 1)
        return low | high.reshape(low.shape) << 8, _bits(blocks[:, signs_at : signs_at + 32], OCTET)

    def pack(blocks: Bytes, numbers: Ints, minus: Bytes) -> None:
        blocks[:, 2 : 2 + 8 * len(shifts)] = numbers & 255
        high = (numbers >> 8).reshape(len(blocks), 8, -1) << np.array(shifts)
        blocks[:, high_at : high_at + 8] = high.sum(2)
        blocks[:, signs_at : signs_at + 32] = np.packbits(minus, axis=1, bitorder="little")

    return {"unpack": unpack, "pack": pack}


TWO_BIT_SIZES = (1.0, 3.125, 5.375)  # ggml's 8, 25 and 43, over 8
BOOKS = {
    "IQ2_XXS": Codebook("IQ2_XXS", TWO_BIT_SIZES, width=8, even=True),
    "IQ2_XS": Codebook("IQ2_XS", TWO_BIT_SIZES, width=8, even=True),
    "IQ2_S": Codebook("IQ2_S", TWO_BIT_SIZES, width=8, even=False),
    "IQ3_XXS": Codebook("IQ3_XXS", (1, 3, 5, 7, 9, 11, 13, 15.5), width=4, even=True),
    "IQ3_S": Codebook("IQ3_S", tuple(range(1, 16, 2)), width=4, even=False),
}


def _grid(name: str, size: int, group: int, **functions: Any) -> CodebookGrid:
    """Return a type of 256 weights a block, with d at its begin."""
    book = BOOKS[name]
    return CodebookGrid(
        name, 256, size, group, (), book.levels, 0, sub_values=ODD, codebook=book, **functions
    )


CODEBOOK_GRIDS = (
    _grid(
        "IQ2_XXS",
        66,
        32,
        unpack=_unpack_2xxs,
        pack=_pack_2xxs,
        split=_split_2xxs,
        join=_join_2xxs,
    ),
    _grid("IQ2_XS", 74, 16, unpack=_unpack_2xs, pack=_pack_2xs, **_nibble_scales(66)),
    _grid("IQ2_S", 82, 16, **_whole_signs(34, 66, (0, 2, 4, 6)), **_nibble_scales(74)),
    _grid(
        "IQ3_XXS",
        98,
        32,
        unpack=_unpack_3xxs,
        pack=_pack_3xxs,
        split=_split_3xxs,
        join=_join_3xxs,
    ),
    _grid("IQ3_S", 110, 32, **_whole_signs(74, 66, tuple(range(8))), **_nibble_scales(106)),
)
"""The grids with a codebook."""
