"""A quantized matrix as something that gradient descent can move: the half d and m of each block.

A weight is `d * sub * level + m * sub_min` (sintra.stages.rounding.grids). The codes and the small
integers `sub` and `sub_min` stay, so it is linear in d and m; that they are stored as halves is
passed over by the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.stages.rounding.grids import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    torch = lazy.module("torch")


class Tunable:
    """One matrix (rows, columns). d, m: (blocks,), tensors to be moved; level: (blocks, groups,
    group), what the codes stand for.
    """

    def __init__(self, blocks: NDArray[np.uint8], grid: Grid, shape: tuple[int, ...]) -> None:
        """From raw blocks (n, size)."""
        self.blocks, self.grid, self.shape = blocks, grid, shape
        found = grid.scales(blocks)
        levels = torch.tensor(grid.levels, dtype=torch.float32)
        self.level = levels[torch.from_numpy(grid.codes(blocks))].reshape(
            -1, grid.groups, grid.group
        )
        self.sub, self.sub_min = (
            torch.from_numpy(found.sub).float(),
            torch.from_numpy(found.sub_min).float(),
        )
        self.d, self.m = (
            torch.from_numpy(found.d).requires_grad_(),
            torch.from_numpy(found.m).requires_grad_(),
        )

    def weight(self) -> Tensor:
        """The matrix as a runtime sees it, (rows, columns), with gradients to d and m."""
        scale = (halved(self.d)[:, None] * self.sub)[..., None]
        offset = (halved(self.m)[:, None] * self.sub_min)[..., None]
        return (scale * self.level + offset).reshape(self.shape)

    def pack(self) -> NDArray[np.uint8]:
        """Raw blocks with these scales."""
        out, grid = self.blocks.copy(), self.grid
        old = grid.scales(out)
        d, m = (x.detach().half().float().numpy() for x in (self.d, self.m))
        grid.write_scales(out, Scales(d, m, old.sub, old.sub_min))
        return out


def halved(x: Tensor) -> Tensor:
    """As a half stores it; the gradient passes as if it were stored exactly."""
    return x + (x.half().float() - x).detach()
