"""A quantized matrix that gradient descent can move: the half-precision d and m of each block.

A weight is `d * sub * level + m * sub_min` (sintra.stages.rounding.grids). The codes and the small
integers `sub` and `sub_min` stay fixed, so a weight is linear in d and m. The gradient ignores that
d and m are stored as halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.stages.rounding.grid import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    torch = lazy.module("torch")


class TunableMatrix:
    """One quantized matrix (rows, columns) whose scales can be trained."""

    blocks: NDArray[np.uint8]
    """Raw blocks as the file has them, (blocks, bytes of a block)."""
    grid: Grid
    """The tensor type."""
    shape: tuple[int, ...]
    """(rows, columns)."""
    order: Tensor | None
    """The row of the file's matrix that each row of the parameter is; None for the same order."""
    level: Tensor
    """What the codes stand for, (blocks, groups, weights of a group) float32."""
    sub: Tensor
    """Integer scales of the groups, (blocks, groups) as float32."""
    sub_min: Tensor
    """Integer mins of the groups, (blocks, groups) as float32."""
    d: Tensor
    """Scales of the blocks, (blocks,) float32, trained."""
    m: Tensor
    """Mins of the blocks, (blocks,) float32, trained; 0 where the type has none."""

    def __init__(
        self,
        blocks: NDArray[np.uint8],
        grid: Grid,
        shape: tuple[int, ...],
        order: Tensor | None = None,
    ) -> None:
        """Take over raw blocks (blocks, bytes of a block)."""
        self.blocks, self.grid, self.shape, self.order = blocks, grid, shape, order
        scales = grid.scales(blocks)
        levels = torch.tensor(grid.levels, dtype=torch.float32)
        codes = torch.from_numpy(grid.codes(blocks))
        self.level = levels[codes].reshape(-1, grid.groups, grid.group)
        self.sub = torch.from_numpy(scales.sub).float()
        self.sub_min = torch.from_numpy(scales.sub_min).float()
        self.d = torch.from_numpy(scales.d).requires_grad_()
        self.m = torch.from_numpy(scales.m).requires_grad_()

    def of_halves(self, of_d: Tensor, of_m: Tensor) -> list[Tensor]:
        """Return what belongs to d and to m, where the type stores them."""
        grid = self.grid
        return [x for x, at in ((of_d, grid.d_at), (of_m, grid.m_at)) if at >= 0]

    def weight(self) -> Tensor:
        """Return the matrix as a runtime sees it, (rows, columns), with gradients to d and m."""
        scale = (straight_through_half(self.d)[:, None] * self.sub)[..., None]
        offset = (straight_through_half(self.m)[:, None] * self.sub_min)[..., None]
        return (scale * self.level + offset).reshape(self.shape)

    def parameter(self) -> Tensor:
        """Return the weight with its rows in the parameter's order, (rows, columns)."""
        return self.weight() if self.order is None else self.weight()[self.order]

    def halves(self) -> tuple[Tensor, Tensor]:
        """Return the present d and m as the file holds them, (blocks,) float32."""
        return self.d.detach().half().float(), self.m.detach().half().float()

    def pack(self) -> NDArray[np.uint8]:
        """Return raw blocks with the present scales, (blocks, bytes of a block)."""
        packed, grid = self.blocks.copy(), self.grid
        old = grid.scales(packed)
        d, m = self.halves()
        grid.write_scales(packed, Scales(d.numpy(), m.numpy(), old.sub, old.sub_min))
        return packed


def straight_through_half(x: Tensor) -> Tensor:
    """Round to half precision; the gradient passes as if nothing were rounded."""
    return x + (x.half().float() - x).detach()
