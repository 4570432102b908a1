"""Compensated rounding of some rows on a GPU, all of them at once, by torch.

The same steps as sintra.stages.rounding.on_cpu's; they agree but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.codebook import OCTET, gptq_octets, sweep_octets
from sintra.stages.rounding.codebook_rows import CodebookRows, sweep_wish
from sintra.stages.rounding.grid import Grid, Values
from sintra.stages.rounding.grid_rows import GridRows, RowStates

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
    order, upper = hessian.factored(rows.grid.together)
    groups = order // rows.grid.group
    scale, offset = (x.T.contiguous() for x in (rows.scale(), rows.offset()))
    left = rows.w.T[order]  # (columns, rows)
    codes = torch.empty_like(left, dtype=torch.int32)
    for start in range(0, rows.columns, width):
        stop = min(start + width, rows.columns)
        block, errors = left[start:stop], torch.empty_like(left[start:stop])
        u = upper[start:stop, start:stop]
        step, choose = rows.grid.together, chooser(rows, u)
        for first in range(0, stop - start, step):
            g, own = groups[start + first], slice(first, first + step)
            at = slice(start + first, start + first + step)
            codes[at], values = choose(first, block[own].clone(), scale[g], offset[g])
            for i in range(first, first + step):
                errors[i] = (block[i] - values[i - first]) / u[i, i]
                block[i:] -= u[i, i:, None] * errors[i]
        left[stop:] -= upper[start:stop, stop:].T @ errors
    rows.codes[:, order] = codes.T


Choose = Callable[[int, "Tensor", "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""(first column, weights, scale, offset) -> codes and what they stand for.

Weights, codes and values: (columns that are chosen together, rows); scale, offset: (rows,).
"""


def chooser(rows: GridRows, upper: Tensor) -> Choose:
    """Return what chooses the codes of some columns; upper: of the inverse of H in their order."""
    if rows.words is None:

        def nearest(_: int, x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
            code, value = rows.nearest(x[0], scale, offset)
            return code[None], value[None]

        return nearest
    words, octets = rows.words, gptq_octets(upper, rows.words.book.width)

    def in_metric(first: int, x: Tensor, scale: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        found = words.choose(x.T.contiguous(), scale, octets, first // OCTET)
        return found.codes.T, found.values.T

    return in_metric


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
        if rows.words is None:
            fit_codes(rows, h, slope, start, stop)
        else:
            fit_octets(rows, rows.words, h, slope, start)
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


def fit_octets(rows: GridRows, words: CodebookRows, h: Tensor, slope: Tensor, start: int) -> None:
    """Move each octet of a chunk to better codewords given all others, where there are any.

    h: (chunk, chunk) of the Hessian; slope: (rows, chunk); start: the chunk's first column.
    """
    grid, stop = rows.grid, start + len(h)
    octets, scale = sweep_octets(h, words.book.width), rows.scale()
    weights, local = rows.rounded(start, stop), slope.clone()
    for first in range(0, len(h), OCTET):
        own = slice(first, first + OCTET)
        number, at = first // OCTET, slice(start + first, start + first + OCTET)
        old, metric = weights[:, own], octets.metrics[number, -1]
        wish = sweep_wish(old, local[:, own], octets.upper[number])
        before = ((wish - old) @ metric * (wish - old)).sum(1)
        found = words.choose(wish, scale[:, (start + first) // grid.group], octets, number)
        better = (found.measure < before)[:, None]
        move = torch.where(better, found.values - old, 0.0)
        rows.codes[:, at] = torch.where(better, found.codes, rows.codes[:, at])
        local -= move @ h[own]


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
            if grid.sub_values:
                along = rows.d[:, b] * level[:, at]
                chunk.move(rows.sub[:, b, g], at, along, one_of(grid.sub_values))
            if grid.min_values:
                along = rows.m[:, b].expand(-1, grid.group)
                chunk.move(rows.sub_min[:, b, g], at, along, one_of(grid.min_values))
        at = slice(first, first + grid.block)
        if grid.d_at >= 0:
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


def one_of(values: Values) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds to the nearest of some values."""
    if isinstance(values, range):
        first, last, step = values[0], values[-1], values.step
        return lambda x: (((x - first) / step).round() * step + first).clamp(first, last)
    table = torch.tensor(values, dtype=torch.float32)

    def nearest(x: Tensor) -> Tensor:
        known = table.to(x.device)
        above = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        low, high = known[above - 1], known[above]
        return torch.where(x - low <= high - x, low, high)

    return nearest


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
