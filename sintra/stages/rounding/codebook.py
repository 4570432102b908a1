"""Codebooks of ggml: several weights that share a codeword, and a sign for each.

A codeword gives the size of four or eight neighboring weights; the signs of eight are stored beside
it. In some types the eighth sign isn't stored: the number of minus signs among eight is even. The
codewords themselves come from the gguf package. Here is what choosing one takes: which codewords
are near to which point, from a table that is made once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    Words = NDArray[np.uint8]
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

OCTET = 8  # weights whose signs are stored together; they are chosen together, too
NEAR = 8  # codewords that are tried for each point


class BookArrays(NamedTuple):
    """A codebook as the loops of rounding want it."""

    sizes: NDArray[np.float32]  # the values of a weight without its sign, ascending
    words: NDArray[np.uint8]  # indices into the sizes, (codewords, weights of a codeword)
    values: NDArray[np.float32]  # the sizes that they stand for, of the same shape
    near: NDArray[np.int16]  # point -> codewords, the nearest first, (points, NEAR)
    even: bool  # whether the number of minus signs in an octet is even


@dataclass(frozen=True)
class Codebook:
    """The codewords of a tensor type.

    A point is one of the sizes for each weight of a codeword; its number has the first weight's
    index as its lowest digit.
    """

    name: str  # the type's name in ggml, and in the gguf package
    sizes: tuple[float, ...]  # the values of a weight without its sign, ascending
    width: int  # weights of a codeword
    even: bool  # whether the number of minus signs in an octet is even

    @property
    def levels(self) -> tuple[float, ...]:
        """Return the values of a weight with its sign, ascending."""
        return (*(-x for x in reversed(self.sizes)), *self.sizes)

    @cached_property
    def words(self) -> Words:
        """Return the codewords as indices into the sizes, (codewords, width)."""
        # The gguf package imports numpy, which a run with nothing to do must not load.
        from gguf import quants

        quant = getattr(quants, self.name)
        quant.init_grid()
        grid = quant.grid.reshape(quant.grid_shape)
        found: Words = np.searchsorted(np.array(quant.grid_map), grid).astype(np.uint8)
        return found

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Return the codeword that a point is, or -1, (points,)."""
        table = np.full(len(self.sizes) ** self.width, -1, np.int64)
        table[self.points(self.words)] = np.arange(len(self.words))
        return table

    def points(self, indices: Words) -> NDArray[np.int64]:
        """Return the numbers of points given by indices into the sizes, (..., width)."""
        digits = len(self.sizes) ** np.arange(self.width)
        points: NDArray[np.int64] = indices.astype(np.int64) @ digits
        return points

    @cached_property
    def arrays(self) -> BookArrays:
        """Return the codebook as the loops want it."""
        sizes = np.array(self.sizes, np.float32)
        return BookArrays(sizes, self.words, sizes[self.words], self._near(), self.even)

    def _near(self) -> NDArray[np.int16]:
        """Return each point's nearest codewords, (points, NEAR)."""
        count = len(self.sizes)
        digits = np.arange(count**self.width)[:, None] // count ** np.arange(self.width) % count
        sizes = np.array(self.sizes, np.float64)
        points, words = sizes[digits], sizes[self.words]
        square = (words**2).sum(1) - 2 * points @ words.T  # less the point's own
        # Sizes are multiples of 1/8. Equally near ones are told apart by their numbers.
        rank = np.rint(square * 64).astype(np.int64) * len(words) + np.arange(len(words))
        nearest = np.sort(np.partition(rank, NEAR - 1, 1)[:, :NEAR], 1) % len(words)
        return nearest.astype(np.int16)

    def unpacked(self, numbers: NDArray[np.int64], minus: Words) -> NDArray[np.int64]:
        """Return codes (indices into the levels), (n, weights).

        numbers: codewords, (n, codewords); minus: whether each weight is negative, (n, weights).
        """
        size = self.words[numbers].reshape(minus.shape).astype(np.int64)
        count = len(self.sizes)
        codes: NDArray[np.int64] = np.where(minus, count - 1 - size, count + size)
        return codes

    def packed(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], Words]:
        """Return codewords and whether weights are negative, from codes (n, weights).

        Raises ValueError where codes are not codewords'.
        """
        count = len(self.sizes)
        minus = codes < count
        size = np.where(minus, count - 1 - codes, codes - count)
        numbers = self.numbers[self.points(size.reshape(len(codes), -1, self.width))]
        odd = minus.reshape(len(codes), -1, OCTET).sum(2) % 2
        if (numbers < 0).any() or (self.even and odd.any()):
            raise ValueError(f"codes that are not codewords of {self.name}")
        return numbers, minus.astype(np.uint8)


class Octets(NamedTuple):
    """What choosing codewords takes, of each octet of some columns; float32."""

    upper: Tensor  # upper Cholesky factor of the inverse of the metric M, (octets, 8, 8)
    metrics: Tensor
    """For each codeword the metric when later ones absorb errors, (octets, codewords, 8, 8).

    For the last one that is M; it is zero where a weight has no part in it."""

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return them as arrays."""
        return self.upper.numpy(), self.metrics.numpy()


def gptq_octets(upper: Tensor, width: int) -> Octets:
    """Return the octets of GPTQ's columns: M is the curvature that later columns leave.

    upper: of the inverse of H, (columns, columns); width: weights of a codeword.
    """
    return _octets(_on_diagonal(upper), width)


def sweep_octets(h: Tensor, width: int) -> Octets:
    """Return the octets of a sweep's columns: M is the octet's block of H (columns, columns)."""
    lower = torch.linalg.cholesky(torch.linalg.inv(_on_diagonal(h).double()))
    return _octets(lower.mT.float(), width)


def _on_diagonal(matrix: Tensor) -> Tensor:
    """Return the octets' blocks of a matrix (columns, columns), (octets, 8, 8)."""
    count = len(matrix) // OCTET
    blocks = matrix.reshape(count, OCTET, count, OCTET)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _octets(upper: Tensor, width: int) -> Octets:
    """Return octets from their factors (octets, 8, 8)."""
    factor, parts = torch.linalg.inv(upper.double()), OCTET // width
    metrics = torch.zeros(len(upper), parts, OCTET, OCTET, device=upper.device)
    for part in range(parts):
        # Of an inverse of an upper triangle the first rows and columns are the inverse of its own.
        stop = (part + 1) * width
        first = factor[:, :stop, :stop]
        metrics[:, part, :stop, :stop] = (first @ first.mT).float()
    return Octets(upper.contiguous(), metrics)
