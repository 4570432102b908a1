"""Learned rounding: one block's codes, scales and norms, moved by gradient descent.

The aim is that the block's output comes nearest to the 16-bit model's, from the inputs that the
block will really have. Rounding each weight up or down by what the layer's output says is AdaRound
(arXiv 2004.10568), by a whole block's output BRECQ (arXiv 2102.05426), through the straight-through
estimator with signed steps AutoRound (arXiv 2309.05516). Here Adam (arXiv 1412.6980) moves a
position for each code. It starts in the middle of the code's level, where compensated rounding put
it. So a code moves only when many steps agree, and those that compensation chose against the
nearest don't all fall back at once.

The loss is the squared error of the block's output over that output's square. A block stays as it
was unless held-out windows say that it got better.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding.learned_matrix import LearnedMatrix

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    States = NDArray[np.float32]  # hidden states (windows, tokens, width), an array or a memory map
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

Forward = Callable[["dict[str, Tensor]", "Tensor"], "Tensor"]
"""(weights, hidden states) -> a block's output, both (windows, tokens, width)."""


@dataclass(frozen=True)
class LearningSettings:
    """How a block learns its rounding."""

    steps: int  # steps for each block
    tokens: int = 2048  # tokens in the windows of a step
    code: float = 0.015  # largest step of a position, in levels; it falls linearly to 0
    scale: float = 0.001  # largest step of scales and norms, as a share; it falls linearly to 0
    decay: tuple[float, float] = (0.9, 0.99)  # Adam's decay of the mean and of the square
    held_out_every: int = 10  # one window in so many is held out
    seed: int = 0  # of the draw of windows


class HeldOutError(NamedTuple):
    """A block's error over the held-out windows (`held_out_error`)."""

    before: float  # as compensated rounding left the block
    after: float  # after learning


class LearnedBlock:
    """The parameters of one block, those that learn among them."""

    matrices: dict[str, LearnedMatrix]
    """Parameter -> matrix that learns its codes and scales."""
    vectors: dict[str, Tensor]
    """Parameter -> norm or bias as the file has it, (n,) float32."""
    fixed: dict[str, Tensor]
    """Parameter -> what doesn't learn."""
    growth: dict[str, Tensor]
    """Parameter -> what a vector has grown by, as a share, (n,) float32, trained."""

    def __init__(
        self,
        matrices: dict[str, LearnedMatrix],
        vectors: dict[str, Tensor],
        fixed: dict[str, Tensor],
    ) -> None:
        self.matrices, self.vectors, self.fixed = matrices, vectors, fixed
        self.growth = {n: torch.zeros_like(v, requires_grad=True) for n, v in vectors.items()}

    def weights(self) -> dict[str, Tensor]:
        """Return every parameter of the block, with gradients."""
        matrices = {name: matrix.parameter() for name, matrix in self.matrices.items()}
        vectors = {name: v * (1 + self.growth[name]) for name, v in self.vectors.items()}
        return self.fixed | matrices | vectors

    def shares(self) -> list[Tensor]:
        """Return what torch's Adam trains: the growth of scales and vectors."""
        matrices = list(self.matrices.values())
        shares = [share for m in matrices for share in m.of_halves(m.by_d, m.by_m)]
        return [*shares, *self.growth.values()]

    def reset(self) -> None:
        """Undo all learning."""
        for matrix in self.matrices.values():
            matrix.reset()
        with torch.no_grad():
            for x in self.growth.values():
                x.zero_()


def learn_block(
    block: LearnedBlock, forward: Forward, inputs: States, goal: States, settings: LearningSettings
) -> HeldOutError:
    """Train a block; it is left as it was unless the held-out error got less.

    inputs: what goes into the block; goal: the 16-bit model's output of it; both (windows, tokens,
    width).
    """
    held_out = list(range(0, len(inputs), settings.held_out_every))
    train = np.array([i for i in range(len(inputs)) if i % settings.held_out_every] or held_out)
    before = held_out_error(block, forward, inputs, goal, held_out)
    descend(block, forward, inputs, goal, train, settings)
    after = held_out_error(block, forward, inputs, goal, held_out)
    if not after < before:
        block.reset()
    return HeldOutError(before, after)


def descend(
    block: LearnedBlock,
    forward: Forward,
    inputs: States,
    goal: States,
    train: NDArray[np.int64],
    settings: LearningSettings,
) -> None:
    """Take Adam's steps over randomly drawn training windows, numbered by `train`."""
    shares = block.shares() or [torch.zeros(())]  # Adam wants something
    adam = torch.optim.Adam(shares, settings.scale, betas=settings.decay, eps=1e-12)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / settings.steps)
    rng = np.random.default_rng(settings.seed)
    batch = min(max(1, settings.tokens // inputs.shape[1]), len(train))
    for step in range(settings.steps):
        chosen = np.sort(rng.choice(train, batch, replace=False))
        output = forward(block.weights(), windows_of(inputs, chosen))
        loss = relative_error(output, windows_of(goal, chosen)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        rate = settings.code * (1 - step / settings.steps)
        move(list(block.matrices.values()), rate, settings.decay)
        adam.step()
        adam.zero_grad()
        schedule.step()


def move(matrices: list[LearnedMatrix], rate: float, decay: tuple[float, float]) -> None:
    """Pass gradients on to the scales, and take a step with the codes, several matrices at once."""

    def move_one(matrix: LearnedMatrix) -> None:
        matrix.collect_gradients()
        matrix.move_codes(rate, decay)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(move_one, matrices))


def held_out_error(
    block: LearnedBlock, forward: Forward, inputs: States, goal: States, windows: list[int]
) -> float:
    """Return the mean over windows of the squared error over the output's square."""
    with torch.no_grad():
        weights = block.weights()
        errors = [
            relative_error(forward(weights, windows_of(inputs, [i])), windows_of(goal, [i]))
            for i in windows
        ]
    return float(torch.cat(errors).double().mean())


def relative_error(output: Tensor, goal: Tensor) -> Tensor:
    """Return each window's squared error over the goal's square, (windows,).

    output, goal: (windows, tokens, width).
    """
    return (output - goal).square().sum((1, 2)) / goal.square().sum((1, 2)).clamp_min(1e-12)


def windows_of(states: States, chosen: NDArray[np.int64] | list[int]) -> Tensor:
    """Return a copy of some windows as a tensor, (chosen, tokens, width)."""
    return torch.from_numpy(np.array(states[chosen]))
