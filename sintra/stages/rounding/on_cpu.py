"""Compensated rounding of some rows on a CPU: loops by numba, products of matrices by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.codebook import gptq_octets, sweep_octets
from sintra.stages.rounding.grid import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sintra.stages.rounding import codebook_kernels, kernels
    from sintra.stages.rounding.damped import CompensationOptions, DampedHessian

    Array = NDArray[Any]
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")
    kernels = lazy.module("sintra.stages.rounding.kernels")
    codebook_kernels = lazy.module("sintra.stages.rounding.codebook_kernels")


class Rounded(NamedTuple):
    """Codes and scales of some rows, and how good each row's are; rows in the last dimension."""

    measure: Array  # e H e' of each row, (rows,) float32
    codes: Array  # indices into the levels, (columns, rows) uint8
    d: Array  # scales of the blocks, (blocks of a row, rows) float32
    m: Array  # mins of the blocks, (blocks of a row, rows) float32
    sub: Array  # integer scales of the groups, (groups of a row, rows) as float32
    sub_min: Array  # integer mins of the groups, (groups of a row, rows) as float32

    def better(self, other: Rounded) -> Rounded:
        """Return the one of the smaller measure, row by row; this one where they are equal."""
        smaller = other.measure < self.measure
        return Rounded(*(np.where(smaller, b, a) for a, b in zip(self, other, strict=True)))

    def copied(self) -> Rounded:
        """Return a copy."""
        return Rounded(*(x.copy() for x in self))


class Rows:
    """Some rows of a matrix, and what rounding them onto a grid takes."""

    w: Tensor
    """The weights to come near to, (columns, rows) float32."""
    grid: Grid
    """The tensor type."""
    hessian: DampedHessian
    """H, its factor, and GPTQ's order of columns."""
    width: int
    """Columns between full updates."""
    slope: Tensor
    """(w - rounded weights) H, (columns, rows) float32; made by `measured`."""

    def __init__(self, w: Tensor, grid: Grid, hessian: DampedHessian, width: int) -> None:
        """Take weights (rows, columns) float32."""
        self.w, self.grid, self.hessian, self.width = w.T.contiguous(), grid, hessian, width
        self.levels = np.array(grid.levels, np.float32)
        self.allowed = (
            np.array(grid.sub_values or (), np.float32),
            np.array(grid.min_values or (), np.float32),
        )
        self.slope, self.room = torch.empty_like(self.w), torch.empty_like(self.w)

    def read(self, blocks: NDArray[np.uint8]) -> Rounded:
        """Return what raw blocks hold (rows * columns / block, bytes of a block), unmeasured."""
        rows = self.w.shape[1]
        scales: list[Array] = [x.astype(np.float32) for x in self.grid.scales(blocks)]
        state = [self.grid.codes(blocks).astype(np.uint8), *scales]
        by_column = (np.ascontiguousarray(x.reshape(rows, -1).T) for x in state)
        return Rounded(np.empty(rows, np.float32), *by_column)

    def write(self, rounded: Rounded, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of raw blocks that holds the codes and scales."""
        packed, grid = blocks.copy(), self.grid
        d, m = (x.T.reshape(-1) for x in (rounded.d, rounded.m))
        sub, sub_min = (x.T.reshape(-1, grid.groups) for x in (rounded.sub, rounded.sub_min))
        grid.write_scales(packed, Scales(d, m, sub, sub_min))
        grid.write_codes(packed, rounded.codes.T.astype(np.int64).reshape(-1, grid.block))
        return packed

    def scales(self, rounded: Rounded) -> tuple[Array, Array]:
        """Return the scales and the offsets of the groups, (groups of a row, rows) each."""
        groups = self.grid.groups
        scale = rounded.d.repeat(groups, 0) * rounded.sub
        return scale, rounded.m.repeat(groups, 0) * rounded.sub_min

    def measured(self, rounded: Rounded) -> Rounded:
        """Return it with the measure of each row, and bring the slope up to date."""
        error = self.room
        kernels.residual(
            self.w.numpy(), rounded.codes, *self.scales(rounded), self.levels, error.numpy()
        )
        torch.mm(self.hessian.h, error, out=self.slope)
        measure = (self.slope * error).sum(0)
        return rounded._replace(measure=measure.numpy())

    def gptq(self, start: Rounded) -> Rounded:
        """Round column after column with the scales of a start; later columns absorb the error."""
        order, upper = self.hessian.factored(self.grid.together)
        left, columns = self.w[order], len(order)
        groups = (order // self.grid.group).numpy()
        scale, offset = self.scales(start)
        codes, errors = np.empty(left.shape, np.uint8), self.room
        for first in range(0, columns, self.width):
            last = min(first + self.width, columns)
            u = upper[first:last, first:last].contiguous()
            error = errors[: last - first]
            given = left[first:last].numpy(), u.numpy(), groups[first:last], scale
            into = codes[first:last], error.numpy()
            if book := self.grid.codebook:
                octets = gptq_octets(u, book.width).arrays()
                codebook_kernels.gptq_octets(*given, book.arrays, octets, *into)
            else:
                kernels.gptq_columns(*given, offset, self.levels, *into)
            left[last:].addmm_(upper[first:last, last:].T, error, alpha=-1)
        natural = np.empty_like(codes)
        natural[order.numpy()] = codes
        return self.measured(start._replace(codes=natural))

    def sweep(self, rounded: Rounded) -> Rounded:
        """Fit scales and mins, then every code, chunk of columns by chunk of columns.

        `rounded` is changed in place, and must have been measured last.
        """
        grid, h = self.grid, self.hessian.h
        width = max(self.width, grid.block)
        for first in range(0, len(h), width):
            last = min(first + width, len(h))
            blocks = slice(first // grid.block, last // grid.block)
            groups = slice(first // grid.group, last // grid.group)
            change, own = self.room[: last - first], h[first:last, first:last].contiguous()
            codes, slope = rounded.codes[first:last], self.slope[first:last].numpy()
            d, sub = rounded.d[blocks], rounded.sub[groups]
            kernels.fit_chunk(
                codes,
                d,
                rounded.m[blocks],
                sub,
                rounded.sub_min[groups],
                slope,
                own.numpy(),
                self.levels,
                self.allowed,
                (grid.d_at >= 0, grid.m_at >= 0),
                grid.codebook is None,
                change.numpy(),
            )
            if book := grid.codebook:
                octets = sweep_octets(own, book.width).arrays()
                given = slope, own.numpy(), self.levels, book.arrays, octets
                codebook_kernels.fit_octets(codes, d, sub, *given, change.numpy())
            # Only for the columns that are still to come: `measured` makes the slope anew.
            self.slope[last:].addmm_(h[last:, first:last], change, alpha=-1)
        return self.measured(rounded)


def round_rows(
    w: Tensor,
    starts: list[NDArray[np.uint8]],
    grid: Grid,
    hessian: DampedHessian,
    options: CompensationOptions,
) -> tuple[NDArray[np.uint8], float, float]:
    """Round some rows (rows, columns) from the best of their starts, each row for itself.

    Returns the raw blocks, the measure of each row's better start and the measure afterwards, both
    summed over rows.
    """
    rows = Rows(w, grid, hessian, options.lazy)
    read = [rows.measured(rows.read(blocks)) for blocks in starts]
    before = np.minimum.reduce([start.measure for start in read])
    best = read[0]
    for start in read:
        best = best.better(start).better(rows.gptq(start))
    present = rows.measured(best.copied())
    for _ in range(options.sweeps):
        present = rows.sweep(present)
        best = best.better(present)
    return rows.write(best, starts[0]), float(before.sum()), float(best.measure.sum())
