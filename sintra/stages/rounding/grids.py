"""The tensor types of ggml that have a grid here, and the layouts of most of them.

Those with codebooks and the 4-bit floats have files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.stages.rounding.codebook_grids import CODEBOOK_GRIDS
from sintra.stages.rounding.float_grids import FLOAT_GRIDS
from sintra.stages.rounding.grid import Grid, Plane, bit_fields

if TYPE_CHECKING:
    import numpy as np

    from sintra.stages.rounding.grid import Bytes, Ints
else:
    np = lazy.module("numpy")


def _split_q2(blocks: Bytes) -> tuple[Ints, Ints]:
    raw = blocks[:, :16].astype(np.int64)
    return raw & 15, raw >> 4


def _join_q2(blocks: Bytes, sub: Ints, mins: Ints) -> None:
    blocks[:, :16] = (sub | (mins << 4)).astype(np.uint8)


def _split_q3(blocks: Bytes) -> tuple[Ints, Ints]:
    sub = bit_fields(blocks[:, 96:104], (0, 4), 15) | (
        bit_fields(blocks[:, 104:108], (0, 2, 4, 6), 3) << 4
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
            sub_values=range(0, 16),
            min_values=range(0, 16),
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
            sub_values=range(-32, 32),
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
            sub_values=range(0, 64),
            min_values=range(0, 64),
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
            sub_values=range(0, 64),
            min_values=range(0, 64),
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
            sub_values=range(-128, 128),
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
            sub_values=range(-32, 32),
            split=_split_iq4,
            join=_join_iq4,
        ),
        *CODEBOOK_GRIDS,
        *FLOAT_GRIDS,
    )
}
"""The grids by tensor type."""
