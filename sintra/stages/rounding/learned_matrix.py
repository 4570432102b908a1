"""A quantized matrix whose codes and scales are learned.

Each code has a position, in levels, that starts in the middle of the code's level. The weights'
gradient comes from autograd; what lies between weights, codes and scales is done by the loops of
sintra.stages.rounding.learned_kernels, and codes move by an Adam of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.stages.rounding.grid import Grid
from sintra.stages.rounding.tunable import TunableMatrix

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sintra.stages.rounding import learned_kernels

    Floats = NDArray[np.float32]
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")
    learned_kernels = lazy.module("sintra.stages.rounding.learned_kernels")


class LearnedMatrix(TunableMatrix):
    """A quantized matrix whose codes move as well as its scales.

    Codes that share a codeword stay, and so does a d that isn't stored.
    """

    first: NDArray[np.uint8]
    """The codes at the start, indices into the levels, (blocks, weights of a block)."""
    position: Floats
    """How far each code has moved, in levels, as `first`."""
    by_d: Tensor
    """What d has grown by, as a share, (blocks,) float32, trained."""
    by_m: Tensor
    """What m has grown by, as a share, (blocks,) float32, trained."""

    def __init__(
        self,
        blocks: NDArray[np.uint8],
        grid: Grid,
        shape: tuple[int, ...],
        order: Tensor | None = None,
    ) -> None:
        """Take over raw blocks (blocks, bytes of a block)."""
        super().__init__(blocks, grid, shape, order)
        self.first = grid.codes(blocks).astype(np.uint8)
        self.levels = np.array(grid.levels, np.float32)
        self.slopes: Floats = np.gradient(self.levels).astype(np.float32)
        self.by_d = torch.zeros_like(self.d, requires_grad=True)
        self.by_m = torch.zeros_like(self.m, requires_grad=True)
        self.reset()

    def reset(self) -> None:
        """Undo all learning."""
        self.position = np.zeros(self.first.shape, np.float32)
        self.weights = np.empty_like(self.position)  # one room for all steps
        self.mean, self.square = np.zeros_like(self.position), np.zeros_like(self.position)
        self.steps = 0  # of Adam, with the codes
        with torch.no_grad():
            self.by_d.zero_()
            self.by_m.zero_()

    def codes(self) -> NDArray[np.int64]:
        """Return the present codes, indices into the levels, (blocks, weights of a block)."""
        moved = np.rint(self.first.astype(np.float32) + self.position)
        codes: NDArray[np.int64] = moved.clip(0, len(self.levels) - 1).astype(np.int64)
        return codes

    def halves(self) -> tuple[Tensor, Tensor]:
        """Return the present d and m as the file holds them, (blocks,) float32."""
        with torch.no_grad():
            grown = (self.d * (1 + self.by_d), self.m * (1 + self.by_m))
            d, m = (x.half().float() for x in grown)
        return d, m

    def weight(self) -> Tensor:
        """Return the matrix as a runtime sees it, (rows, columns).

        It is a leaf of autograd; `collect_gradients` passes its gradient on.
        """
        d, m = self.halves()
        self.scale: Floats = (d[:, None] * self.sub).numpy()
        self.offset: Floats = (m[:, None] * self.sub_min).numpy()
        learned_kernels.dequantize(
            self.first, self.position, self.levels, self.scale, self.offset, self.weights
        )
        self.leaf = torch.from_numpy(self.weights).requires_grad_(torch.is_grad_enabled())
        return self.leaf.reshape(self.shape)

    def weight_gradient(self) -> Floats:
        """Return the gradient of the latest `weight`, (blocks, weights of a block)."""
        assert self.leaf.grad is not None  # a matrix that the output doesn't depend on has no layer
        gradient: Floats = self.leaf.grad.numpy()
        return gradient

    def collect_gradients(self) -> None:
        """Pass the gradient of the latest `weight` on to by_d and by_m.

        It ignores that d and m are stored as halves.
        """
        shape = (len(self.first), self.grid.groups)
        of_scale, of_offset = np.empty(shape, np.float32), np.empty(shape, np.float32)
        learned_kernels.scale_gradients(
            self.weights, self.scale, self.offset, self.weight_gradient(), of_scale, of_offset
        )
        self.by_d.grad = (torch.from_numpy(of_scale) * self.sub).sum(1) * self.d.detach()
        self.by_m.grad = (torch.from_numpy(of_offset) * self.sub_min).sum(1) * self.m.detach()

    def move_codes(self, rate: float, decay: tuple[float, float]) -> None:
        """Take a step of Adam with the codes, by the gradient of the latest `weight`.

        rate: the largest step, in levels; decay: of Adam's mean and square.
        """
        if self.grid.codebook is not None:
            return
        self.steps += 1
        mean, square = (1 - d**self.steps for d in decay)
        learned_kernels.move_codes(
            self.first,
            self.position,
            self.slopes,
            self.scale,
            self.weight_gradient(),
            self.mean,
            self.square,
            np.float32(decay[0]),
            np.float32(decay[1]),
            np.float32(rate / mean),
            np.float32(square**0.5),
        )

    def pack(self) -> NDArray[np.uint8]:
        """Return raw blocks with the present codes and scales, (blocks, bytes of a block)."""
        packed = super().pack()
        self.grid.write_codes(packed, self.codes())
        return packed
