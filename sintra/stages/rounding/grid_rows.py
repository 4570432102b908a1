"""Rows of a matrix on a grid of ggml, as tensors: codes, scales, and the change that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.codebook_rows import CodebookRows
from sintra.stages.rounding.grid import Grid, Scales

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


class GridRows:
    """Some rows of a matrix while they are rounded onto a grid."""

    w: Tensor
    """The weights to come near to, (rows, columns) float32."""
    grid: Grid
    """The tensor type."""
    h: Tensor
    """The damped Hessian, (columns, columns) float32."""
    levels: Tensor
    """The values of the codes, (levels,) float32."""
    words: CodebookRows | None
    """The codebook where the type has one."""
    middles: Tensor
    """The bounds between neighboring levels, (levels - 1,) float32."""
    codes: Tensor
    """Indices into the levels, (rows, columns) int32."""
    d: Tensor
    """Scales of the blocks, (rows, blocks of a row, 1) float32."""
    m: Tensor
    """Mins of the blocks, (rows, blocks of a row, 1) float32."""
    sub: Tensor
    """Integer scales of the groups, (rows, blocks of a row, groups) as float32."""
    sub_min: Tensor
    """Integer mins of the groups, (rows, blocks of a row, groups) as float32."""
    slope: Tensor
    """(w - rounded weights) H, (rows, columns) float32; made by `measure`."""

    def __init__(self, w: Tensor, blocks: NDArray[np.uint8], grid: Grid, h: Tensor) -> None:
        """Begin from raw blocks (rows * columns / block, bytes of a block), on the device of h."""
        device = h.device
        self.w, self.grid, self.h = w.to(device), grid, h
        self.rows, self.columns = w.shape
        self.levels = torch.tensor(grid.levels, dtype=torch.float32, device=device)
        self.words = CodebookRows(grid.codebook, device) if grid.codebook else None
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        self.codes = torch.from_numpy(grid.codes(blocks)).to(device, torch.int32).reshape(w.shape)
        scales = grid.scales(blocks)
        self.d, self.m, self.sub, self.sub_min = (self._by_block(x) for x in scales)
        self.slope = torch.empty(0)

    def _by_block(self, x: NDArray[Any]) -> Tensor:
        """Return values of blocks as float32, (rows, blocks of a row, values of a block)."""
        values = torch.from_numpy(np.ascontiguousarray(x)).float()
        return values.reshape(self.rows, self.columns // self.grid.block, -1).to(self.h.device)

    def scale(self) -> Tensor:
        """Return the scales of the groups, (rows, groups of a row)."""
        return (self.d * self.sub).reshape(self.rows, -1)

    def offset(self) -> Tensor:
        """Return the offsets of the groups, (rows, groups of a row)."""
        return (self.m * self.sub_min).reshape(self.rows, -1)

    def rounded(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the rounded weights of some columns (whole blocks), (rows, columns)."""
        group, end = self.grid.group, stop or self.columns
        scale, offset = (
            x[:, start // group : end // group].repeat_interleave(group, 1)
            for x in (self.scale(), self.offset())
        )
        return scale * self.levels[self.codes[:, start:end]] + offset

    def nearest(self, x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codes to a column of weights, and the weights that they stand for.

        x, scale, offset, and both results: (rows,).
        """
        safe = torch.where(scale == 0, 1.0, scale)
        at = torch.where(scale == 0, 0.0, (x - offset) / safe)
        code = torch.bucketize(at, self.middles, out_int32=True)
        return code, scale * self.levels[code] + offset

    def measure(self) -> Tensor:
        """Return e H e' of each row, (rows,), and bring the slope up to date."""
        e = self.w - self.rounded()
        self.slope = e @ self.h
        return (self.slope * e).sum(1)

    def state(self) -> list[Tensor]:
        """Return a copy of everything that changes."""
        return [x.clone() for x in (self.codes, self.d, self.m, self.sub, self.sub_min)]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a copied state."""
        self.codes, self.d, self.m, self.sub, self.sub_min = state

    def pack(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return raw blocks with the present scales and codes."""
        packed, grid = blocks.copy(), self.grid
        d, m = (x.reshape(-1).cpu().numpy() for x in (self.d, self.m))
        sub, sub_min = (x.reshape(-1, grid.groups).cpu().numpy() for x in (self.sub, self.sub_min))
        grid.write_scales(packed, Scales(d, m, sub, sub_min))
        grid.write_codes(packed, self.codes.reshape(-1, grid.block).cpu().numpy().astype(np.int64))
        return packed


class RowStates(NamedTuple):
    """States of some rows, and how good each row's is."""

    measure: Tensor  # (rows,)
    state: list[Tensor]  # as GridRows.state returns it

    def better(self, other: RowStates) -> RowStates:
        """Return the state of the smaller measure, row by row; this one where they are equal."""
        smaller = other.measure < self.measure
        state = [
            torch.where(smaller.reshape(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(other.state, self.state, strict=True)
        ]
        return RowStates(torch.where(smaller, other.measure, self.measure), state)
