"""Tiles of rows for the loops of compensated rounding on a CPU, compiled by numba.

A matrix's rows stand in the last dimension of every array, and are taken in tiles of TILE rows that
stay in the nearest cache; the last tile is filled up with zeros. All floats are float32. Machine
code is compiled once for a processor and kept by numba (in NUMBA_CACHE_DIR, or in __pycache__
beside the file).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

F = TypeVar("F", bound=Callable[..., Any])

TILE = 64  # rows of a tile
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)


def compiled(function: F) -> F:
    """Compile a function that lets other threads run; a product and a sum may be fused."""
    return _compile(function, {"contract", "nsz"})


def summing(function: F) -> F:
    """Compile a function whose sums may be taken in any order besides, to be vectorized."""
    return _compile(function, {"contract", "nsz", "reassoc"})


def _compile(function: F, freedoms: set[str]) -> F:
    """Compile a function. freedoms: LLVM's fast-math flags."""
    jit = numba.njit(nogil=True, cache=True, fastmath=freedoms, error_model="numpy")
    made: Any = jit(function)
    return cast(F, made)


@compiled
def load(source: Floats, start: int, target: Floats) -> None:
    """Copy rows from `start` on into a tile, (n, TILE), zeros behind the last row."""
    size = min(TILE, source.shape[1] - start)
    for i in range(len(source)):
        for r in range(size):
            target[i, r] = source[i, start + r]
        for r in range(size, TILE):
            target[i, r] = ZERO


@compiled
def save(source: NDArray[Any], start: int, target: NDArray[Any]) -> None:
    """Copy a tile, (n, TILE), back to the rows from `start` on."""
    size = min(TILE, target.shape[1] - start)
    for i in range(len(source)):
        for r in range(size):
            target[i, start + r] = source[i, r]
