"""Gradient descent on KL(16-bit model || quantized model) over calibration text, the file's layout
held fixed.

What moves, all at once: norm weights and biases (norm tweaking, arXiv 2309.02784) and the scales of
the blocks (EfficientQAT's second phase, arXiv 2407.11062). What is made small is the mean of the
logarithm of each window's KLD: every window counts by what is left of its damage, where the plain
mean heeds those of the strangest text alone. Windows that are held out say which state is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.stages.rounding.student import Student

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

TINY = 1e-12
# vocabularies up to this have their teacher's logits kept on disk, larger ones are computed again
# each time
WHOLE = 8192


@dataclass(frozen=True)
class Settings:
    """epochs over the training windows; batch: windows a step; rate: the largest step, as a share
    of a value's size, for a KLD of 1 nat to begin with: since the KLD grows with the square of a
    change, smaller by its root for less; decay: Adam's; rise: steps until the rate is reached, from
    where it falls linearly to nothing; held: one window in so many is held out; checks: how often
    the held-out windows are looked at.
    """

    epochs: float = 2.0
    batch: int = 1
    rate: float = 0.01
    decay: tuple[float, float] = (0.9, 0.99)
    rise: int = 5
    held: int = 10
    checks: int = 8
    seed: int = 0


class Teacher:
    """The 16-bit model's logits over the windows, kept in a file where that is small."""

    def __init__(self, net: Any, windows: Tensor, keep: Path) -> None:
        self.net, self.windows, self.kept = net, windows, None
        vocabulary = net.get_output_embeddings().weight.shape[0]
        if vocabulary <= WHOLE:
            keep.mkdir(parents=True, exist_ok=True)
            shape = (*windows.shape, vocabulary)
            self.kept = np.lib.format.open_memmap(keep / "teacher.npy", "w+", np.float32, shape)
            for i in range(len(windows)):
                self.kept[i] = self._fresh(windows[i : i + 1])[0].numpy()

    def logits(self, chosen: list[int]) -> Tensor:
        """Of some windows, (windows, tokens, vocabulary)."""
        if self.kept is not None:
            return torch.from_numpy(self.kept[chosen])
        return self._fresh(self.windows[chosen])

    def _fresh(self, windows: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.net(input_ids=windows, use_cache=False).logits
        return logits.float()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats at every position, from logits (windows, tokens, vocabulary)."""
    p = teacher.log_softmax(-1)
    return (p.exp() * (p - student.log_softmax(-1))).sum(-1)


class Descent:
    """Adam (arXiv 1412.6980), with steps that are a share of each value's size."""

    def __init__(self, values: list[Tensor], settings: Settings) -> None:
        self.values, self.settings, self.count = values, settings, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in values]

    def step(self, rate: float) -> None:
        """Move everything and forget the gradients."""
        self.count += 1
        first, second = self.settings.decay
        with torch.no_grad():
            for x, (mean, square) in zip(self.values, self.moments, strict=True):
                assert x.grad is not None
                mean.lerp_(x.grad, 1 - first)
                square.mul_(second).addcmul_(x.grad, x.grad, value=1 - second)
                root = (square / (1 - second**self.count)).sqrt_().add_(1e-12)
                x.sub_((mean / (1 - first**self.count)).div_(root).mul_(x.abs()), alpha=rate)
                x.grad = None


@dataclass(frozen=True)
class Outcome:
    """KLD over the held-out windows (see `distance`) before and after; steps taken; the step whose
    state was kept (0: the start's).
    """

    before: float
    after: float
    steps: int
    kept: int


def tune(
    student: Student, teacher: Teacher, settings: Settings, say: Callable[[str], None]
) -> Outcome:
    """Move the student; it is left in the best state that the held-out windows saw, at worst where
    it began.
    """
    held = list(range(0, len(teacher.windows), settings.held))
    train = [i for i in range(len(teacher.windows)) if i % settings.held]
    total = max(1, round(settings.epochs * len(train) / settings.batch))
    descent, batches = Descent(student.moving(), settings), shuffled(train, settings)
    before = best = distance(student, teacher, held)
    rate = settings.rate * before**0.5
    kept, state, start, every = (
        0,
        student.state(),
        time.monotonic(),
        max(1, total // settings.checks),
    )
    for number in range(1, total + 1):
        learn(student, teacher, next(batches))
        descent.step(rate * min(1.0, number / settings.rise) * (1 - (number - 1) / total))
        if number % every == 0 or number == total:
            value = distance(student, teacher, held)
            if value < best:
                best, kept, state = value, number, student.state()
            left = (time.monotonic() - start) / number * (total - number)
            share = f"{value:.6f} nats on held-out text, {value / before:.3f} of before"
            say(f"step {number} of {total}: {share}, {left:.0f} s left")
    student.restore(state)
    return Outcome(before, best, total, kept)


def learn(student: Student, teacher: Teacher, chosen: list[int]) -> None:
    """The gradients of some windows."""
    made = student.logits(teacher.windows[chosen], student.weights())
    harm = divergence(teacher.logits(chosen), made).mean(1).clamp_min(TINY).log().mean()
    harm.backward()  # type: ignore[no-untyped-call]


def shuffled(train: list[int], settings: Settings) -> Iterator[list[int]]:
    """Batches without end, every window once an epoch."""
    rng, left = np.random.default_rng(settings.seed), list[int]()
    while True:
        if len(left) < settings.batch:
            left = left + [train[i] for i in rng.permutation(len(train))]
        chosen, left = left[: settings.batch], left[settings.batch :]
        yield chosen


def distance(student: Student, teacher: Teacher, windows: list[int]) -> float:
    """Mean KLD over the second half of a window, as the quality probe scores it; of some windows
    the geometric mean.
    """
    found, half = [], teacher.windows.shape[1] // 2
    with torch.no_grad():
        weights = student.weights()
        for i in windows:
            made = student.logits(teacher.windows[i : i + 1], weights)
            found.append(
                divergence(teacher.logits([i])[:, half - 1 : -1], made[:, half - 1 : -1]).mean()
            )
    return float(torch.stack(found).double().clamp_min(TINY).log().mean().exp())
