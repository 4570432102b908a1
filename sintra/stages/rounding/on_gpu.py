"""Compensated rounding of some rows on a GPU, all of them at once, by torch.

The same steps as sintra.stages.rounding.on_cpu's; they agree but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.grid_rows import GridRows, RowStates
from sintra.stages.rounding.grids import Grid

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sintra.stages.rounding.damped import CompensationOptions, DampedHessian
else:
    torch = lazy.module("torch")


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
    w: Tensor,
    blocks: list[NDArray[np.uint8]],
    grid: Grid,
    hessian: DampedHessian,
    options: CompensationOptions,
) -> tuple[NDArray[np.uint8], float, float]:
    """Round some rows (rows, columns) from the best of their starts, each row for itself.

    Returns the raw blocks, the measure of each row's better start and the measure afterwards, both
    summed over rows.
    """
    starts = [GridRows(w, start, grid, hessian.h) for start in blocks]
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
    return rows.pack(blocks[0]), float(before.sum()), float(best.measure.sum())
