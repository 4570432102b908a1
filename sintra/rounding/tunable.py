"""A quantized matrix as something that gradient descent can move: its codes, and the half d and m of each block.

A weight is `d * sub * level + m * sub_min` (sintra.rounding.grids): with the codes fixed it is linear in d and m. A code is
moved through a position on the line of levels, of which the nearest level is taken; its gradient passes the rounding as if
it weren't there (the straight-through estimator, arXiv 1308.3432). The small integers `sub` and `sub_min` stay.
"""

from __future__ import annotations

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

EDGE = 0.45  # how far from its level a position may start: at 0.5 the first steps would move all those codes at once


class Tunable:
    """One matrix. position: (rows, columns) on the line of levels; d, m: (blocks,); all of them tensors to be moved."""

    def __init__(self, blocks: NDArray[np.uint8], grid: Grid, exact: Tensor) -> None:
        """From raw blocks (n, size) and the weights (rows, columns) that they stand for."""
        self.blocks, self.grid, self.shape = blocks, grid, tuple(exact.shape)
        found = grid.scales(blocks)
        self.levels = torch.tensor(grid.levels, dtype=torch.float32)
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        self.even = bool((self.levels.diff() == 1).all())
        self.sub, self.sub_min = torch.from_numpy(found.sub).float(), torch.from_numpy(found.sub_min).float()
        self.d, self.m = torch.from_numpy(found.d).requires_grad_(), torch.from_numpy(found.m).requires_grad_()
        level = self.levels[torch.from_numpy(grid.codes(blocks))].reshape(-1, grid.groups, grid.group)
        self.position = self._start(level, exact).requires_grad_()

    def _start(self, level: Tensor, exact: Tensor) -> Tensor:
        """Where the exact weight lies, but no further from the chosen level than that it is still the nearest one.

        So the codes to begin with are those of the file, and those go first that it costs least to move.
        """
        scale, offset = self._affine(self.d.detach(), self.m.detach())
        at = (exact.reshape(level.shape) - offset) / torch.where(scale == 0, 1.0, scale)
        lower, upper = ((self._neighbour(level, side) - level) * EDGE + level for side in (-1, 1))
        start = torch.minimum(torch.maximum(torch.where(scale == 0, level, at), lower), upper)
        return start.reshape(self.shape).contiguous()

    def _neighbour(self, level: Tensor, side: int) -> Tensor:
        """The next level on a side, one step beyond at either end."""
        padded = torch.cat([self.levels[:1] - 1, self.levels, self.levels[-1:] + 1])
        return padded[torch.bucketize(level, self.middles) + 1 + side]

    def _affine(self, d: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and offset of every group, (blocks, groups, 1)."""
        return (d[:, None] * self.sub)[..., None], (m[:, None] * self.sub_min)[..., None]

    def snapped(self, position: Tensor) -> Tensor:
        """The nearest levels."""
        if self.even:
            return position.round().clamp(self.levels[0], self.levels[-1])
        return self.levels[torch.bucketize(position, self.middles)]

    def weight(self) -> Tensor:
        """The matrix as a runtime sees it, (rows, columns), with gradients to position, d and m."""
        made: Tensor = _Dequantized.apply(self.position, self.d, self.m, self)  # type: ignore[no-untyped-call]
        return made

    def bound(self) -> None:
        """Hold positions within reach of the outer levels."""
        with torch.no_grad():
            self.position.clamp_(float(self.levels[0]) - 0.5, float(self.levels[-1]) + 0.5)

    def pack(self) -> NDArray[np.uint8]:
        """Raw blocks with these codes and scales."""
        out, grid = self.blocks.copy(), self.grid
        old = grid.scales(out)
        d, m = (x.detach().half().float().numpy() for x in (self.d, self.m))
        grid.write_scales(out, Scales(d, m, old.sub, old.sub_min))
        codes = torch.bucketize(self.snapped(self.position.detach()), self.middles)
        grid.write_codes(out, codes.reshape(-1, grid.block).numpy().astype(np.int64))
        return out


class _Dequantized(torch.autograd.Function if not TYPE_CHECKING else object):
    """Forward as the file stores it; backward as if nothing were rounded."""

    @staticmethod
    def forward(ctx: Any, position: Tensor, d: Tensor, m: Tensor, of: Tunable) -> Tensor:
        scale, offset = of._affine(d.half().float(), m.half().float())
        level = of.snapped(position).reshape((*scale.shape[:2], -1))
        ctx.of = of
        ctx.save_for_backward(level, scale)
        return (scale * level + offset).reshape(of.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        level, scale = ctx.saved_tensors
        of, own = ctx.of, grad.reshape(level.shape)
        codes = (own * scale).reshape(of.shape) if ctx.needs_input_grad[0] else None
        d = ((own * level).sum(2) * of.sub).sum(1)
        return codes, d, (own.sum(2) * of.sub_min).sum(1), None
