"""Learned rounding: one block's codes, scales and norms moved by gradient descent until the block's
output comes nearest to the 16-bit model's, given the inputs that it will really have.

Rounding each weight up or down by what the layer's output says is AdaRound (arXiv 2004.10568), by a
whole block's output BRECQ (arXiv 2102.05426), through the straight-through estimator with signed
steps AutoRound (arXiv 2309.05516). Here Adam (arXiv 1412.6980) moves a position for each code,
which starts in the middle of its level, where compensated rounding put it. So a code moves only
when many steps agree, and those that compensation chose against the nearest don't all fall back at
once. What is made small is the squared error of the block's output over that output's square, and a
block is left as it was unless windows that were held out say that it got better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.stages.rounding.grids import Grid, Scales
from sintra.stages.rounding.tunable import Tunable, halved

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

Forward = Callable[["dict[str, Tensor]", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Settings:
    """steps a block; tokens: in the windows of a step; code: the largest step of a position, in
    levels; scale: of scales and norms, as a share of themselves; both fall linearly to nothing;
    decay: Adam's; held: one window in so many is held out.
    """

    steps: int
    tokens: int = 2048
    code: float = 0.015
    scale: float = 0.001
    decay: tuple[float, float] = (0.9, 0.99)
    held: int = 10
    seed: int = 0


class Learned(Tunable):
    """A matrix whose codes move too. position: (blocks, weights), how far each code has moved, in
    levels; by_d, by_m: (blocks,), what d and m have grown by, as a share.
    """

    def __init__(self, blocks: NDArray[np.uint8], grid: Grid, shape: tuple[int, ...]) -> None:
        super().__init__(blocks, grid, shape)
        self.first = torch.from_numpy(grid.codes(blocks)).float()
        self.levels = torch.tensor(grid.levels, dtype=torch.float32)
        self.slopes = torch.from_numpy(np.gradient(np.array(grid.levels, np.float32)))
        self.position = torch.zeros_like(self.first, requires_grad=True)
        self.by_d, self.by_m = (torch.zeros_like(x, requires_grad=True) for x in (self.d, self.m))

    def codes(self) -> Tensor:
        """Indices into the levels, (blocks, weights)."""
        return (self.first + self.position.detach()).round().clamp(0, len(self.levels) - 1).long()

    def weight(self) -> Tensor:
        """The matrix as a runtime sees it, (rows, columns); a level's gradient passes to its
        position.
        """
        code = self.codes()
        level = self.levels[code] + self.slopes[code] * (self.position - self.position.detach())
        d, m = halved(self.d.detach() * (1 + self.by_d)), halved(self.m.detach() * (1 + self.by_m))
        spread = level.reshape(self.level.shape)
        whole = (d[:, None] * self.sub)[..., None] * spread + (m[:, None] * self.sub_min)[..., None]
        return whole.reshape(self.shape)

    def pack(self) -> NDArray[np.uint8]:
        """Raw blocks with these codes and scales."""
        out, grid = self.blocks.copy(), self.grid
        old = grid.scales(out)
        with torch.no_grad():
            d, m = (
                (x * (1 + by)).half().float().numpy()
                for x, by in ((self.d, self.by_d), (self.m, self.by_m))
            )
        grid.write_codes(out, self.codes().numpy())
        grid.write_scales(out, Scales(d, m, old.sub, old.sub_min))
        return out


class Block:
    """What moves in one block. matrices: parameter -> (matrix, order of its rows); vectors:
    parameter -> as the file has it; rest: the other parameters.
    """

    def __init__(
        self,
        matrices: dict[str, tuple[Learned, Tensor | None]],
        vectors: dict[str, Tensor],
        rest: dict[str, Tensor],
    ) -> None:
        self.matrices, self.vectors, self.rest = matrices, vectors, rest
        self.by = {name: torch.zeros_like(v, requires_grad=True) for name, v in vectors.items()}

    def weights(self) -> dict[str, Tensor]:
        """Every parameter of the block, with gradients."""
        found = dict(self.rest)
        for name, (matrix, order) in self.matrices.items():
            found[name] = matrix.weight() if order is None else matrix.weight()[order]
        return found | {name: v * (1 + self.by[name]) for name, v in self.vectors.items()}

    def moving(self, settings: Settings) -> list[dict[str, Any]]:
        """Adam's groups."""
        matrices = [m for m, _ in self.matrices.values()]
        shares = [x for m in matrices for x in ([m.by_d, m.by_m] if m.grid.m_at >= 0 else [m.by_d])]
        return [
            {"params": [m.position for m in matrices], "lr": settings.code},
            {"params": [*shares, *self.by.values()], "lr": settings.scale},
        ]


def learn(
    block: Block, forward: Forward, ours: Any, goal: Any, settings: Settings
) -> tuple[float, float]:
    """Move a block's parts; the held-out error before and after, at which the parts are left as
    they were if it isn't less.

    forward: (weights, hidden states) -> the block's output, (windows, tokens, width); ours: its
    inputs; goal: the 16-bit model's outputs, both (windows, tokens, width) float32, arrays or
    memory maps.
    """
    held = list(range(0, len(ours), settings.held))
    train = np.array([i for i in range(len(ours)) if i % settings.held] or held)
    before = error(block, forward, ours, goal, held)
    groups = block.moving(settings)
    adam = torch.optim.Adam(groups, betas=settings.decay, eps=1e-12)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / settings.steps)
    rng, batch = np.random.default_rng(settings.seed), max(1, settings.tokens // ours.shape[1])
    for _ in range(settings.steps):
        chosen = np.sort(rng.choice(train, min(batch, len(train)), replace=False))
        loss(forward(block.weights(), window(ours, chosen)), window(goal, chosen)).mean().backward()  # type: ignore[no-untyped-call]
        adam.step()
        adam.zero_grad()
        falling.step()
    after = error(block, forward, ours, goal, held)
    if not after < before:
        with torch.no_grad():
            for x in (x for group in groups for x in group["params"]):
                x.zero_()
    return before, after


def error(block: Block, forward: Forward, ours: Any, goal: Any, windows: list[int]) -> float:
    """The mean over windows of the squared error over the output's square."""
    with torch.no_grad():
        weights = block.weights()
        found = [loss(forward(weights, window(ours, [i])), window(goal, [i])) for i in windows]
    return float(torch.cat(found).double().mean())


def loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Of each window: squared error over the wanted output's square. Both (windows, tokens, width);
    (windows,).
    """
    return (made - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2)).clamp_min(1e-12)


def window(states: Any, chosen: Any) -> Tensor:
    """Some windows as a tensor."""
    return torch.from_numpy(np.array(states[chosen]))
