"""Choosing codewords for many rows at once, by torch.

The same steps as sintra.stages.rounding.codebook_kernels'; they agree but for the order of sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.codebook import Codebook, Octets

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.module("torch")


class Words(NamedTuple):
    """Codes of an octet of each row, and how good they are."""

    codes: Tensor  # indices into the levels, (rows, 8) int32
    values: Tensor  # the weights that they stand for, (rows, 8)
    measure: Tensor  # r M r' of what is left, (rows,)


class Signed(NamedTuple):
    """What rounding one codeword's weights one after another gives."""

    point: Tensor  # (rows,) int64
    scale: Tensor  # the scale with each weight's sign, (rows, weights of a codeword)
    odd: Tensor  # whether the number of minus signs is odd, (rows,)


class CodebookRows:
    """A codebook on the device of the arithmetic."""

    book: Codebook
    """The codebook."""
    sizes: Tensor
    """The values of a weight without its sign, (sizes,) float32."""
    words: Tensor
    """Codewords as indices into the sizes, (codewords, weights) int64."""
    near: Tensor
    """Point -> codewords, the nearest first, (points, tried) int64."""

    def __init__(self, book: Codebook, device: torch.device) -> None:
        arrays = book.arrays
        self.book = book
        self.sizes = torch.from_numpy(arrays.sizes).to(device)
        self.words = torch.from_numpy(arrays.words).to(device, torch.int64)
        self.near = torch.from_numpy(arrays.near).to(device, torch.int64)
        self.middles = (self.sizes[1:] + self.sizes[:-1]) / 2

    def choose(self, x: Tensor, scale: Tensor, octets: Octets, number: int) -> Words:
        """Return good codes for an octet of weights x (rows, 8) with scales (rows,).

        number: the octet's in `octets`.
        """
        upper, metrics = octets.upper[number], octets.metrics[number]
        width, left, rest = self.book.width, x.clone(), torch.zeros_like(x)
        signed, sizes = torch.empty_like(x), torch.empty_like(x, dtype=torch.int64)
        odd = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for part, metric in enumerate(metrics):
            own = slice(part * width, (part + 1) * width)
            found = self._signed(left[:, own], scale, upper[own, own])
            signed[:, own], odd = found.scale, odd ^ found.odd
            flips = odd if self.book.even and part == len(metrics) - 1 else None
            word = self._best(x, rest, found, metric, own, flips)
            sizes[:, own] = self.words[word]
            rest[:, own] = x[:, own] - found.scale * self.sizes[self.words[word]]
            for i in range(own.start, own.stop):
                value = signed[:, i] * self.sizes[sizes[:, i]]
                error = (left[:, i] - value) / upper[i, i]
                left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
        return self._with_flips(x, rest, signed * scale[:, None] < 0, sizes, odd, metrics[-1])

    def _signed(self, left: Tensor, scale: Tensor, upper: Tensor) -> Signed:
        """Round one codeword's weights without regard to which codewords there are.

        left: (rows, weights); upper: (weights, weights).
        """
        left, point = left.clone(), torch.zeros(len(left), dtype=torch.int64, device=left.device)
        inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))
        signs = torch.empty_like(left)
        odd = torch.zeros(len(left), dtype=torch.bool, device=left.device)
        for i in range(left.shape[1]):
            at = left[:, i] * inverse
            index = torch.bucketize(at.abs(), self.middles)
            point += index * len(self.sizes) ** i
            signs[:, i], odd = torch.where(at < 0, -scale, scale), odd ^ (at < 0)
            error = (left[:, i] - signs[:, i] * self.sizes[index]) / upper[i, i]
            left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
        return Signed(point, signs, odd)

    def _best(
        self,
        x: Tensor,
        rest: Tensor,
        found: Signed,
        metric: Tensor,
        own: slice,
        flips: Tensor | None,
    ) -> Tensor:
        """Return the best codeword near the point, (rows,).

        own: its weights in the octet; flips: rows of which one sign must change; None: of none.
        """
        tried = self.near[found.point]  # (rows, tried)
        left = rest[:, None].repeat(1, tried.shape[1], 1)
        left[:, :, own] = x[:, None, own] - found.scale[:, None] * self.sizes[self.words[tried]]
        pull = left @ metric
        measure = (pull * left).sum(2)
        if flips is not None:
            growth = flip_growth(x[:, None], left, metric, pull).amin(2)
            measure = torch.where(flips[:, None], measure + growth, measure)
        return tried.gather(1, measure.argmin(1, keepdim=True))[:, 0]

    def _with_flips(
        self, x: Tensor, rest: Tensor, minus: Tensor, sizes: Tensor, odd: Tensor, metric: Tensor
    ) -> Words:
        """Return the codes, one sign of each row changed where it must or where that is better.

        minus: whether weights are negative, (rows, 8); sizes: (rows, 8); odd: (rows,).
        """
        pull = rest @ metric
        growth, at = flip_growth(x, rest, metric, pull).min(1)
        measure = (pull * rest).sum(1)
        flips = odd if self.book.even else growth < 0
        changed = torch.zeros_like(minus).scatter(1, at[:, None], flips[:, None])
        values = torch.where(changed, rest - x, x - rest)
        count = len(self.sizes)
        codes = torch.where(minus ^ changed, count - 1 - sizes, count + sizes)
        return Words(codes.int(), values, torch.where(flips, measure + growth, measure))


def flip_growth(x: Tensor, rest: Tensor, metric: Tensor, pull: Tensor) -> Tensor:
    """Return by how much r M r' grows when each weight alone takes the other sign, (..., 8).

    rest: r, what is left of x; pull: r M.
    """
    move = 2 * (x - rest)
    return move * (2 * pull + move * metric.diagonal())


def sweep_wish(weights: Tensor, slope: Tensor, upper: Tensor) -> Tensor:
    """Return where octets would go if they were free: weights + slope inv(H), (rows, 8).

    upper: upper Cholesky factor of the inverse of the octet's block of H, (8, 8).
    """
    return weights + (slope @ upper.T) @ upper
