"""Integers chosen so that a layer's output changes least: GPTQ's rounding (arXiv 2210.17323) onto a
grid of ggml.

The measure is tr(E H E') with E the change of the weights (rows, columns) and H = X'X of the
layer's inputs, damped. First columns are rounded one by one, those of the largest curvature first,
the columns that are left absorbing the error; then, in sweeps, scales and mins are fitted to the
chosen integers and integers to the scales, each step one that can't raise the measure. Rows are
independent given H, so they are taken in slices that bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.stages.rounding.grids import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

SLICE = 2**24


@dataclass(frozen=True)
class Options:
    """damping: a share of H's mean diagonal; sweeps: rounds of fitting after GPTQ's; lazy: columns
    between full updates, a divisor or a multiple of the grid's block; ordered: whether GPTQ takes
    the largest diagonal first.
    """

    damping: float = 0.01
    sweeps: int = 4
    lazy: int = 128
    ordered: bool = True


class Metric:
    """H, damped and divided by its mean diagonal, and what GPTQ needs of it: computed once for a
    tensor's rows.
    """

    def __init__(self, h: NDArray[np.float32], options: Options) -> None:
        self.h = damped(h, options.damping).to(device())
        diagonal = self.h.diagonal()
        natural = torch.arange(len(diagonal), device=self.h.device)
        self.order = diagonal.argsort(descending=True, stable=True) if options.ordered else natural
        # H = R R' with R upper, so R's inverse is the upper Cholesky factor of H's inverse.
        flipped = self.h[self.order][:, self.order].double().flip(0, 1)
        r = torch.linalg.cholesky(flipped).flip(0, 1)
        eye = torch.eye(len(r), dtype=torch.float64, device=r.device)
        self.upper = torch.linalg.solve_triangular(r, eye, upper=True).float()


class Fit:
    """Some rows on their way: weights w, the grid's codes and scales, and slope = (w - now) H."""

    def __init__(self, w: Tensor, blocks: NDArray[np.uint8], grid: Grid, metric: Metric) -> None:
        place = metric.h.device
        self.w, self.grid, self.h = w.to(place), grid, metric.h
        self.rows, self.columns = w.shape
        self.levels = torch.tensor(grid.levels, dtype=torch.float32, device=place)
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        self.codes = torch.from_numpy(grid.codes(blocks)).to(place, torch.int32).reshape(w.shape)
        found = grid.scales(blocks)
        per_row = self.columns // grid.block

        def shaped(x: NDArray[Any]) -> Tensor:
            return (
                torch.from_numpy(np.ascontiguousarray(x))
                .float()
                .reshape(self.rows, per_row, -1)
                .to(place)
            )

        self.d, self.m = shaped(found.d), shaped(found.m)
        self.sub, self.sub_min = shaped(found.sub), shaped(found.sub_min)
        self.slope = torch.empty(0)  # made by measure()

    def scale(self) -> Tensor:
        """(rows, groups of a row)."""
        return (self.d * self.sub).reshape(self.rows, -1)

    def offset(self) -> Tensor:
        """(rows, groups of a row)."""
        return (self.m * self.sub_min).reshape(self.rows, -1)

    def now(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The weights of some columns (whole blocks) as the grid has them."""
        wide, end = self.grid.group, stop or self.columns
        scale, offset = (
            x[:, start // wide : end // wide].repeat_interleave(wide, 1)
            for x in (self.scale(), self.offset())
        )
        return scale * self.levels[self.codes[:, start:end]] + offset

    def snap(self, x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes to a column of weights and what they stand for."""
        safe = torch.where(scale == 0, 1.0, scale)
        at = torch.where(scale == 0, 0.0, (x - offset) / safe)
        code = torch.bucketize(at, self.middles, out_int32=True)
        return code, scale * self.levels[code] + offset

    def measure(self) -> Tensor:
        """e H e' of each row; the slope is brought up to date."""
        e = self.w - self.now()
        self.slope = e @ self.h
        return (self.slope * e).sum(1)

    def state(self) -> list[Tensor]:
        """Everything that changes, copied."""
        return [x.clone() for x in (self.codes, self.d, self.m, self.sub, self.sub_min)]

    def restore(self, state: list[Tensor]) -> None:
        """Back to a copied state."""
        self.codes, self.d, self.m, self.sub, self.sub_min = state

    def pack(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Raw blocks with these scales and codes."""
        out, grid = blocks.copy(), self.grid
        ints = [
            x.reshape(-1, grid.groups).round().cpu().numpy().astype(np.int64)
            for x in (self.sub, self.sub_min)
        ]
        grid.write_scales(
            out, Scales(self.d.reshape(-1).cpu().numpy(), self.m.reshape(-1).cpu().numpy(), *ints)
        )
        grid.write_codes(out, self.codes.reshape(-1, grid.block).cpu().numpy().astype(np.int64))
        return out


def device() -> str:
    """Where the arithmetic is done."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def damped(h: NDArray[np.float32], share: float) -> Tensor:
    """H with a share of its mean diagonal added to the diagonal; the identity where there is no
    input at all.
    """
    full = torch.tensor(h, dtype=torch.float32)
    mean = float(full.diagonal().double().mean())
    if mean <= 0:
        return torch.eye(len(full))
    full /= mean
    full.diagonal().add_(share)
    return full


def gptq(fit: Fit, metric: Metric, width: int) -> None:
    """Round column after column; the columns that are left absorb the error."""
    upper, order = metric.upper, metric.order
    groups = order // fit.grid.group
    scale, offset = (x.T.contiguous() for x in (fit.scale(), fit.offset()))
    left = fit.w.T[order]  # (columns, rows)
    codes = torch.empty_like(left, dtype=torch.int32)
    for start in range(0, fit.columns, width):
        stop = min(start + width, fit.columns)
        block, errors = left[start:stop], torch.empty_like(left[start:stop])
        u = upper[start:stop, start:stop]
        for i in range(stop - start):
            g = groups[start + i]
            codes[start + i], value = fit.snap(block[i], scale[g], offset[g])
            errors[i] = (block[i] - value) / u[i, i]
            block[i:] -= u[i, i:, None] * errors[i]
        left[stop:] -= upper[start:stop, stop:].T @ errors
    fit.codes[:, order] = codes.T


def sweep(fit: Fit, width: int) -> None:
    """One pass over chunks of columns: scales and mins fitted, then every column moved to its best
    grid point.
    """
    width = max(width, fit.grid.block)
    for start in range(0, fit.columns, width):
        stop = min(start + width, fit.columns)
        old = fit.now(start, stop)
        h, slope = fit.h[start:stop, start:stop], fit.slope[:, start:stop].clone()
        refit(fit, h, slope, start, stop)
        descend(fit, h, slope, start, stop)
        # Only what this pass has still to look at: the measure that follows makes the slope anew.
        fit.slope[:, stop:] -= (fit.now(start, stop) - old) @ fit.h[start:stop, stop:]


def descend(fit: Fit, h: Tensor, slope: Tensor, start: int, stop: int) -> None:
    """The columns of a chunk, each moved to its best grid point given all others."""
    wide = fit.grid.group
    scale, offset = (
        x[:, start // wide : stop // wide].T.contiguous() for x in (fit.scale(), fit.offset())
    )
    old, local = fit.now(start, stop).T.contiguous(), slope.T.contiguous()
    codes = torch.empty_like(old, dtype=torch.int32)
    for i in range(stop - start):
        g = i // wide
        codes[i], value = fit.snap(old[i] + local[i] / h[i, i], scale[g], offset[g])
        local[i:] -= h[i:, i, None] * (value - old[i])
    fit.codes[:, start:stop] = codes.T


def refit(fit: Fit, h: Tensor, slope: Tensor, start: int, stop: int) -> None:
    """The chunk's scales, then its mins, then d and m, each moved to its best value given all
    others.
    """
    grid = fit.grid
    level = fit.levels[fit.codes[:, start:stop]]

    def step(values: Tensor, at: slice, v: Tensor, fitted: Callable[[Tensor], Tensor]) -> None:
        """Move `values` (rows,) along v (rows, columns at); `fitted` makes an allowed value of a
        wished one.
        """
        curve = ((v @ h[at, at]) * v).sum(1)
        gain = (slope[:, at] * v).sum(1)
        wish = values + torch.where(curve > 0, gain / curve.clamp_min(1e-30), 0.0)
        move = torch.nan_to_num(fitted(wish) - values, nan=0.0, posinf=0.0, neginf=0.0)
        move = torch.where(move * (2 * gain - move * curve) > 0, move, 0.0)
        values += move
        slope.sub_((move[:, None] * v) @ h[at])

    def half(x: Tensor) -> Tensor:
        return x.half().float()

    def clamped(limits: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        return lambda x: x.round().clamp(*limits)

    for b in range(start // grid.block, stop // grid.block):
        first = b * grid.block - start
        for g in range(grid.groups):
            at = slice(first + g * grid.group, first + (g + 1) * grid.group)
            if grid.limits:
                step(fit.sub[:, b, g], at, fit.d[:, b] * level[:, at], clamped(grid.limits))
            if grid.min_limits:
                step(
                    fit.sub_min[:, b, g],
                    at,
                    fit.m[:, b].expand(-1, grid.group),
                    clamped(grid.min_limits),
                )
        at = slice(first, first + grid.block)
        step(
            fit.d[:, b, 0], at, fit.sub[:, b].repeat_interleave(grid.group, 1) * level[:, at], half
        )
        if grid.m_at >= 0:
            step(fit.m[:, b, 0], at, fit.sub_min[:, b].repeat_interleave(grid.group, 1), half)


def started(fit: Fit, metric: Metric, width: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """GPTQ from one start: the start's measure, and row by row the better of the start and what
    GPTQ made of it.
    """
    before, kept = fit.measure(), fit.state()
    gptq(fit, metric, width)
    return (before, *better_of(before, kept, fit.measure(), fit.state()))


def better_of(
    one: Tensor, kept: list[Tensor], two: Tensor, state: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Row by row the state whose measure is smaller."""
    better = two < one
    rows = [
        torch.where(better.reshape(-1, *[1] * (new.dim() - 1)), new, old)
        for new, old in zip(state, kept, strict=True)
    ]
    return torch.where(better, two, one), rows


def improved(fits: list[Fit], metric: Metric, options: Options) -> tuple[Fit, float, float]:
    """Bring some rows from the best of their starts to the best state found, row by row; the
    measure before and after.

    before: of each row's better start.
    """
    fit = fits[0]
    before, best, kept = started(fit, metric, options.lazy)
    for other in fits[1:]:
        start, reached, state = started(other, metric, options.lazy)
        before = torch.minimum(before, start)
        best, kept = better_of(best, kept, reached, state)
    fit.restore([x.clone() for x in kept])
    fit.measure()
    for _ in range(options.sweeps):
        sweep(fit, options.lazy)
        best, kept = better_of(best, kept, fit.measure(), fit.state())
    fit.restore(kept)
    return fit, float(before.sum()), float(best.sum())


def compensate(
    w: NDArray[np.float32],
    starts: list[NDArray[np.uint8]],
    grid: Grid,
    h: NDArray[np.float32],
    options: Options | None = None,
) -> tuple[NDArray[np.uint8], float, float]:
    """Better blocks of the same type for weights w (rows, columns), given nearest ones (rows *
    columns / block, size), with the scales of one quantizer or of several (with and without
    importance matrix): every row takes the start that serves it best.

    Returns them with the measure before and after, tr(E H E') of the damped H divided by its mean
    diagonal.
    """
    chosen = options or Options()
    metric = Metric(h, chosen)
    rows, columns = w.shape
    step, per_row = max(1, SLICE // columns), columns // grid.block
    made, before, after = np.empty_like(starts[0]), 0.0, 0.0
    for start in range(0, rows, step):
        part = slice(start * per_row, min(start + step, rows) * per_row)
        own = torch.tensor(w[start : start + step], dtype=torch.float32)
        fit, old, new = improved(
            [Fit(own, blocks[part], grid, metric) for blocks in starts], metric, chosen
        )
        made[part] = fit.pack(starts[0][part])
        before, after = before + old, after + new
    return made, before, after
