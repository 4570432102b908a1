"""Compensated rounding: codes chosen so that a layer's output changes least.

It is GPTQ's rounding (arXiv 2210.17323) onto a grid of ggml. The measure is tr(E H E') with E the
change of the weights (rows, columns) and H = X'X of the layer's inputs, damped. First columns are
rounded one by one, those of the largest curvature first; the columns that are left absorb the
error. Then, in sweeps, scales and mins are fitted to the chosen codes and codes to the scales; no
such step can raise the measure. Rows are independent given H, so they are taken in slices that
bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.grid_rows import GridRows, RowStates
from sintra.stages.rounding.grids import Grid

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

SLICE_WEIGHTS = 2**24  # weights that are rounded at once


@dataclass(frozen=True)
class CompensationOptions:
    """How a matrix is rounded."""

    damping: float = 0.01  # share of H's mean diagonal that is added to the diagonal
    sweeps: int = 4  # passes of fitting after GPTQ's
    lazy: int = 128  # columns between full updates: a divisor or multiple of the grid's block
    ordered: bool = True  # whether GPTQ takes the largest diagonal first


class Compensation(NamedTuple):
    """A rounded matrix, and tr(E H E') of the damped H divided by its mean diagonal."""

    blocks: NDArray[np.uint8]  # raw blocks, (rows * columns / block, bytes of a block)
    before: float  # the measure of each row's better start, summed over rows
    after: float  # the measure of the blocks, summed over rows


class DampedHessian:
    """H, damped and divided by its mean diagonal, and what GPTQ needs of it.

    It is computed once for all rows of a tensor.
    """

    h: Tensor
    """(columns, columns) float32."""
    order: Tensor
    """The order in which GPTQ takes the columns, (columns,) int64."""
    upper: Tensor
    """Upper Cholesky factor of the inverse of H in that order, (columns, columns) float32."""

    def __init__(self, h: NDArray[np.float32], options: CompensationOptions) -> None:
        """Damp and factor H (columns, columns)."""
        self.h = damped_hessian(h, options.damping).to(compute_device())
        diagonal = self.h.diagonal()
        natural = torch.arange(len(diagonal), device=self.h.device)
        self.order = diagonal.argsort(descending=True, stable=True) if options.ordered else natural
        # H = R R' with R upper, so R's inverse is the upper Cholesky factor of H's inverse.
        flipped = self.h[self.order][:, self.order].double().flip(0, 1)
        r = torch.linalg.cholesky(flipped).flip(0, 1)
        eye = torch.eye(len(r), dtype=torch.float64, device=r.device)
        self.upper = torch.linalg.solve_triangular(r, eye, upper=True).float()


def compute_device() -> str:
    """Return the device of the arithmetic: "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def damped_hessian(h: NDArray[np.float32], share: float) -> Tensor:
    """Return H divided by its mean diagonal, with a share of that mean added to the diagonal.

    The identity where there is no input at all. (columns, columns) float32.
    """
    damped = torch.tensor(h, dtype=torch.float32)
    mean = float(damped.diagonal().double().mean())
    if mean <= 0:
        return torch.eye(len(damped))
    damped /= mean
    damped.diagonal().add_(share)
    return damped


def round_by_gptq(rows: GridRows, hessian: DampedHessian, width: int) -> None:
    """Round column after column; the columns that are left absorb the error.

    width: columns between full updates.
    """
    upper, order = hessian.upper, hessian.order
    groups = order // rows.grid.group
    scale, offset = (x.T.contiguous() for x in (rows.scale(), rows.offset()))
    left = rows.w.T[order]  # (columns, rows)
    codes = torch.empty_like(left, dtype=torch.int32)
    for start in range(0, rows.columns, width):
        stop = min(start + width, rows.columns)
        block, errors = left[start:stop], torch.empty_like(left[start:stop])
        u = upper[start:stop, start:stop]
        for i in range(stop - start):
            g = groups[start + i]
            codes[start + i], value = rows.nearest(block[i], scale[g], offset[g])
            errors[i] = (block[i] - value) / u[i, i]
            block[i:] -= u[i, i:, None] * errors[i]
        left[stop:] -= upper[start:stop, stop:].T @ errors
    rows.codes[:, order] = codes.T


def sweep(rows: GridRows, width: int) -> None:
    """Fit scales and mins, then every code, chunk of columns by chunk of columns.

    width: columns of a chunk, at least a block. The slope must be up to date before.
    """
    width = max(width, rows.grid.block)
    for start in range(0, rows.columns, width):
        stop = min(start + width, rows.columns)
        old = rows.rounded(start, stop)
        h, slope = rows.h[start:stop, start:stop], rows.slope[:, start:stop].clone()
        fit_scales(rows, h, slope, start, stop)
        fit_codes(rows, h, slope, start, stop)
        # Only for the columns that are still to come: `measure` makes the slope anew afterwards.
        rows.slope[:, stop:] -= (rows.rounded(start, stop) - old) @ rows.h[start:stop, stop:]


def fit_codes(rows: GridRows, h: Tensor, slope: Tensor, start: int, stop: int) -> None:
    """Move each column of a chunk to its best grid point given all others.

    h: (chunk, chunk) of the Hessian; slope: (rows, chunk); start, stop: the chunk's columns.
    """
    group = rows.grid.group
    scale, offset = (
        x[:, start // group : stop // group].T.contiguous() for x in (rows.scale(), rows.offset())
    )
    old, local = rows.rounded(start, stop).T.contiguous(), slope.T.contiguous()
    codes = torch.empty_like(old, dtype=torch.int32)
    for i in range(stop - start):
        g = i // group
        codes[i], value = rows.nearest(old[i] + local[i] / h[i, i], scale[g], offset[g])
        local[i:] -= h[i:, i, None] * (value - old[i])
    rows.codes[:, start:stop] = codes.T


def fit_scales(rows: GridRows, h: Tensor, slope: Tensor, start: int, stop: int) -> None:
    """Move a chunk's scales and mins, each to its best value given all others.

    Block by block: first the groups' integers, then d and m. `slope` is kept up to date.
    h: (chunk, chunk) of the Hessian; slope: (rows, chunk); start, stop: the chunk's columns.
    """
    grid, chunk = rows.grid, ChunkSlope(h, slope)
    level = rows.levels[rows.codes[:, start:stop]]
    for b in range(start // grid.block, stop // grid.block):
        first = b * grid.block - start
        for g in range(grid.groups):
            at = slice(first + g * grid.group, first + (g + 1) * grid.group)
            if grid.limits:
                along = rows.d[:, b] * level[:, at]
                chunk.move(rows.sub[:, b, g], at, along, integers(grid.limits))
            if grid.min_limits:
                along = rows.m[:, b].expand(-1, grid.group)
                chunk.move(rows.sub_min[:, b, g], at, along, integers(grid.min_limits))
        at = slice(first, first + grid.block)
        along = rows.sub[:, b].repeat_interleave(grid.group, 1) * level[:, at]
        chunk.move(rows.d[:, b, 0], at, along, to_half)
        if grid.m_at >= 0:
            along = rows.sub_min[:, b].repeat_interleave(grid.group, 1)
            chunk.move(rows.m[:, b, 0], at, along, to_half)


class ChunkSlope(NamedTuple):
    """The measure's curvature and slope over a chunk of columns."""

    h: Tensor  # (chunk, chunk) of the Hessian, float32
    slope: Tensor  # (w - rounded weights) H, (rows, chunk) float32, updated in place

    def move(
        self, values: Tensor, at: slice, along: Tensor, allowed: Callable[[Tensor], Tensor]
    ) -> None:
        """Move a scale of each row to its best allowed value, unless that raises the measure.

        values: (rows,), changed in place; at: the columns that it scales; along: their change for
        each unit of the scale, (rows, columns at); allowed: rounds wishes to what can be stored.
        """
        curve = ((along @ self.h[at, at]) * along).sum(1)
        gain = (self.slope[:, at] * along).sum(1)
        wish = values + torch.where(curve > 0, gain / curve.clamp_min(1e-30), 0.0)
        move = torch.nan_to_num(allowed(wish) - values, nan=0.0, posinf=0.0, neginf=0.0)
        move = torch.where(move * (2 * gain - move * curve) > 0, move, 0.0)
        values += move
        self.slope.sub_((move[:, None] * along) @ self.h[at])


def to_half(x: Tensor) -> Tensor:
    """Round to half precision, as float32."""
    return x.half().float()


def integers(limits: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds to the integers from the first to the second limit."""
    return lambda x: x.round().clamp(*limits)


def round_start(rows: GridRows, hessian: DampedHessian, width: int) -> tuple[Tensor, RowStates]:
    """Run GPTQ from one start.

    Returns the start's measure (rows,) and, row by row, the better of start and outcome.
    """
    start = RowStates(rows.measure(), rows.state())
    round_by_gptq(rows, hessian, width)
    return start.measure, start.better(RowStates(rows.measure(), rows.state()))


def round_rows(
    starts: list[GridRows], hessian: DampedHessian, options: CompensationOptions
) -> tuple[GridRows, float, float]:
    """Round some rows from the best of their starts, each row for itself.

    Returns the rows in the best state that was seen, the measure of each row's better start and the
    measure afterwards, both summed over rows.
    """
    rows = starts[0]
    before, best = round_start(rows, hessian, options.lazy)
    for other in starts[1:]:
        start, states = round_start(other, hessian, options.lazy)
        before = torch.minimum(before, start)
        best = best.better(states)
    rows.restore([x.clone() for x in best.state])
    rows.measure()
    for _ in range(options.sweeps):
        sweep(rows, options.lazy)
        best = best.better(RowStates(rows.measure(), rows.state()))
    rows.restore(best.state)
    return rows, float(before.sum()), float(best.measure.sum())


def compensate(
    w: NDArray[np.float32],
    starts: list[NDArray[np.uint8]],
    grid: Grid,
    h: NDArray[np.float32],
    options: CompensationOptions | None = None,
) -> Compensation:
    """Return better blocks of the same type for weights w (rows, columns).

    starts: raw blocks (rows * columns / block, bytes of a block), rounded to nearest with the
    scales of one quantizer or of several (with and without importance matrix); every row takes the
    start that serves it best. h: X'X of the inputs, (columns, columns).
    """
    chosen = options or CompensationOptions()
    hessian = DampedHessian(h, chosen)
    rows, columns = w.shape
    step, per_row = max(1, SLICE_WEIGHTS // columns), columns // grid.block
    blocks, before, after = np.empty_like(starts[0]), 0.0, 0.0
    for first in range(0, rows, step):
        part = slice(first * per_row, min(first + step, rows) * per_row)
        own = torch.tensor(w[first : first + step], dtype=torch.float32)
        rounded, old, new = round_rows(
            [GridRows(own, start[part], grid, hessian.h) for start in starts], hessian, chosen
        )
        blocks[part] = rounded.pack(starts[0][part])
        before, after = before + old, after + new
    return Compensation(blocks, before, after)
