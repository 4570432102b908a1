"""Integers chosen so that a layer's output changes least: GPTQ's rounding (arXiv 2210.17323) onto a grid of ggml.

The measure is tr(E H E') with E the change of the weights (rows, columns) and H = X'X of the layer's inputs, damped. First
columns are rounded one by one, the columns that are left absorbing the error; then scales and mins are fitted to the chosen
integers, and integers to the scales, each step one that can't raise the measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sintra import lazy
from sintra.rounding.grids import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


@dataclass(frozen=True)
class Options:
    """damping: a share of H's mean diagonal; sweeps: rounds of fitting after GPTQ's; lazy: columns between full updates."""

    damping: float = 0.01
    sweeps: int = 4
    lazy: int = 128


class Fit:
    """A tensor on its way: weights w, the grid's current values `now`, and what the grid needs to step."""

    def __init__(self, w: Tensor, blocks: NDArray[np.uint8], grid: Grid, h: Tensor) -> None:
        self.w, self.grid, self.h = w, grid, h
        self.rows, self.columns = w.shape
        self.levels = torch.tensor(grid.levels, dtype=torch.float32)
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        self.codes = torch.from_numpy(grid.codes(blocks)).reshape(w.shape)
        found = grid.scales(blocks)
        per_row = self.columns // grid.block

        def shaped(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x)).float().reshape(self.rows, per_row, -1)

        self.d, self.m = shaped(found.d), shaped(found.m)
        self.sub, self.sub_min = shaped(found.sub), shaped(found.sub_min)

    def scale(self) -> Tensor:
        """(rows, groups of a row)."""
        return (self.d * self.sub).reshape(self.rows, -1)

    def offset(self) -> Tensor:
        """(rows, groups of a row)."""
        return (self.m * self.sub_min).reshape(self.rows, -1)

    def now(self) -> Tensor:
        """The weights as the grid has them."""
        wide = self.grid.group
        return self.scale().repeat_interleave(wide, 1) * self.levels[self.codes] + self.offset().repeat_interleave(wide, 1)

    def snap(self, x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes to a column of weights and what they stand for."""
        safe = torch.where(scale == 0, 1.0, scale)
        at = torch.where(scale == 0, 0.0, (x - offset) / safe)
        code = torch.bucketize(at, self.middles)
        return code, scale * self.levels[code] + offset

    def error(self) -> float:
        """tr(E H E')."""
        e = self.w - self.now()
        return float(((e @ self.h) * e).sum())

    def state(self) -> tuple[Tensor, ...]:
        """Everything that changes, copied."""
        return tuple(x.clone() for x in (self.codes, self.d, self.m, self.sub, self.sub_min))

    def restore(self, state: tuple[Tensor, ...]) -> None:
        """Back to a copied state."""
        self.codes, self.d, self.m, self.sub, self.sub_min = state

    def pack(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Raw blocks with these scales and codes."""
        out, grid = blocks.copy(), self.grid
        ints = [x.reshape(-1, grid.groups).round().numpy().astype(np.int64) for x in (self.sub, self.sub_min)]
        grid.write_scales(out, Scales(self.d.reshape(-1).numpy(), self.m.reshape(-1).numpy(), *ints))
        grid.write_codes(out, self.codes.reshape(-1, grid.block).numpy())
        return out


def damped(h: NDArray[np.float32], share: float) -> Tensor:
    """H with a share of its mean diagonal added to the diagonal; the identity where there is no input at all."""
    full = torch.from_numpy(np.asarray(h, np.float64))
    mean = float(full.diagonal().mean())
    if mean <= 0:
        return torch.eye(len(full))
    return (full / mean + share * torch.eye(len(full), dtype=torch.float64)).float()


def gptq(fit: Fit, lazy_columns: int) -> None:
    """Round column after column; the columns that are left absorb the error."""
    inverse = torch.linalg.inv(fit.h.double())
    upper = torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True).float()
    scale, offset, w = fit.scale(), fit.offset(), fit.w.clone()
    codes = torch.empty_like(fit.codes)
    for start in range(0, fit.columns, lazy_columns):
        stop = min(start + lazy_columns, fit.columns)
        block, errors = w[:, start:stop].T.contiguous(), torch.empty(stop - start, fit.rows)
        u = upper[start:stop, start:stop]
        for i in range(stop - start):
            g = (start + i) // fit.grid.group
            code, value = fit.snap(block[i], scale[:, g], offset[:, g])
            codes[:, start + i] = code
            errors[i] = (block[i] - value) / u[i, i]
            block[i:] -= u[i, i:, None] * errors[i]
        w[:, stop:] -= errors.T @ upper[start:stop, stop:]
    fit.codes = codes


def descend(fit: Fit, lazy_columns: int) -> None:
    """One sweep over the columns, each moved to its best grid point given all others."""
    scale, offset, now = fit.scale(), fit.offset(), fit.now()
    slope = (fit.w - now) @ fit.h
    for start in range(0, fit.columns, lazy_columns):
        stop = min(start + lazy_columns, fit.columns)
        h = fit.h[start:stop, start:stop]
        local, old = slope[:, start:stop].T.contiguous(), now[:, start:stop].T.contiguous()
        moved = torch.empty_like(old)
        for i in range(stop - start):
            g = (start + i) // fit.grid.group
            code, value = fit.snap(old[i] + local[i] / h[i, i], scale[:, g], offset[:, g])
            moved[i] = value - old[i]
            fit.codes[:, start + i] = code
            local -= h[:, i, None] * moved[i]
        slope -= moved.T @ fit.h[start:stop]


def refit(fit: Fit) -> None:
    """Scales, then mins, then d and m, each moved to its best value given all others."""
    grid, per_row = fit.grid, fit.columns // fit.grid.block
    level = fit.levels[fit.codes]
    slope = (fit.w - fit.now()) @ fit.h

    def step(values: Tensor, at: slice, v: Tensor, fitted: Any) -> None:
        """Move `values` (rows,) along v (rows, columns at); `fitted` makes an allowed value of a wished one."""
        nonlocal slope
        curve = ((v @ fit.h[at, at]) * v).sum(1)
        gain = (slope[:, at] * v).sum(1)
        wish = values + torch.where(curve > 0, gain / curve.clamp_min(1e-30), 0.0)
        move = torch.nan_to_num(fitted(wish) - values, nan=0.0, posinf=0.0, neginf=0.0)
        move = torch.where(move * (2 * gain - move * curve) > 0, move, 0.0)
        values += move
        slope -= (move[:, None] * v) @ fit.h[at]

    def half(x: Tensor) -> Tensor:
        return x.half().float()

    for b in range(per_row):
        for g in range(grid.groups):
            start = b * grid.block + g * grid.group
            at = slice(start, start + grid.group)
            if grid.limits:
                low, high = grid.limits
                step(fit.sub[:, b, g], at, fit.d[:, b] * level[:, at], lambda x, a=low, z=high: x.round().clamp(a, z))
            if grid.min_limits:
                low, high = grid.min_limits
                flat = fit.m[:, b].expand(-1, grid.group)
                step(fit.sub_min[:, b, g], at, flat, lambda x, a=low, z=high: x.round().clamp(a, z))
        at = slice(b * grid.block, (b + 1) * grid.block)
        step(fit.d[:, b, 0], at, fit.sub[:, b].repeat_interleave(grid.group, 1) * level[:, at], half)
        if grid.m_at >= 0:
            step(fit.m[:, b, 0], at, fit.sub_min[:, b].repeat_interleave(grid.group, 1), half)


def compensate(w: NDArray[np.float32], blocks: NDArray[np.uint8], grid: Grid, h: NDArray[np.float32],
               options: Options | None = None) -> tuple[NDArray[np.uint8], float, float]:  # fmt: skip
    """Better blocks of the same type for weights w (rows, columns), given the nearest ones (rows * columns / block, size).

    Returns them with the measure before and after, tr(E H E') of the damped H divided by its mean diagonal.
    """
    chosen = options or Options()
    fit = Fit(torch.from_numpy(np.ascontiguousarray(w, np.float32)), blocks, grid, damped(h, chosen.damping))
    before = best = fit.error()
    kept = fit.state()
    gptq(fit, chosen.lazy)
    for number in range(chosen.sweeps + 1):
        if number:
            refit(fit)
            descend(fit, chosen.lazy)
        if (error := fit.error()) < best:
            best, kept = error, fit.state()
    fit.restore(kept)
    return fit.pack(blocks), before, best
