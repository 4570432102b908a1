"""Polishing: gradient descent on KL(16-bit model || quantized model) over calibration text.

What moves, all at once: norm weights and biases (norm tweaking, arXiv 2309.02784) and the scales of
the blocks (EfficientQAT's second phase, arXiv 2407.11062). The layout of the file stays. The loss
is the mean of the logarithm of each window's KLD. So every window counts by the share of its KLD
that is left, where the plain mean follows the windows of the largest KLD alone. Held-out windows
say which state is kept.
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
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

SMALLEST_KLD = 1e-12  # nats; smaller values count as this one, so that the logarithm exists
CACHED_VOCABULARY = 8192  # up to this vocabulary the teacher's logits are kept on disk


@dataclass(frozen=True)
class PolishSettings:
    """How a quantized model is polished."""

    epochs: float = 2.0  # passes over the training windows
    batch: int = 1  # windows of a step
    rate: float = 0.01
    """Largest step, as a share of a value's size, where the KLD begins at 1 nat.

    For a smaller KLD it is smaller by the KLD's root, since the KLD grows with the square of a
    change."""
    decay: tuple[float, float] = (0.9, 0.99)  # Adam's decay of the mean and of the square
    rise: int = 5  # steps until the rate is reached; from there it falls linearly to 0
    held_out_every: int = 10  # one window in so many is held out
    checks: int = 8  # how often the held-out windows are measured
    seed: int = 0  # of the order of the windows


class Teacher:
    """The 16-bit model's logits over the windows, kept in a file where that is small."""

    windows: Tensor
    """Token ids, (windows, tokens) int64."""
    cache: NDArray[np.float32] | None
    """Logits (windows, tokens, vocabulary) on disk; None where they are computed each time."""

    def __init__(self, net: Any, windows: Tensor, folder: Path) -> None:
        """Compute the logits where the vocabulary is small; they go to teacher.npy in `folder`."""
        self.net, self.windows, self.cache = net, windows, None
        vocabulary = net.get_output_embeddings().weight.shape[0]
        if vocabulary <= CACHED_VOCABULARY:
            folder.mkdir(parents=True, exist_ok=True)
            shape = (*windows.shape, vocabulary)
            self.cache = np.lib.format.open_memmap(folder / "teacher.npy", "w+", np.float32, shape)
            for i in range(len(windows)):
                self.cache[i] = self._compute(windows[i : i + 1])[0].numpy()

    def logits(self, chosen: list[int]) -> Tensor:
        """Return the logits of some windows, (chosen, tokens, vocabulary) float32."""
        if self.cache is not None:
            return torch.from_numpy(self.cache[chosen])
        return self._compute(self.windows[chosen])

    def _compute(self, windows: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.net(input_ids=windows, use_cache=False).logits
        return logits.float()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) in nats at every position, (windows, tokens).

    teacher, student: logits (windows, tokens, vocabulary).
    """
    p = teacher.log_softmax(-1)
    return (p.exp() * (p - student.log_softmax(-1))).sum(-1)


class RelativeAdam:
    """Adam (arXiv 1412.6980), with steps that are a share of each value's size."""

    def __init__(self, values: list[Tensor], settings: PolishSettings) -> None:
        self.values, self.settings, self.count = values, settings, 0
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in values]

    def step(self, rate: float) -> None:
        """Move all values by at most about `rate` of their size, and clear the gradients."""
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
class PolishOutcome:
    """What polishing reached."""

    before: float  # KLD over the held-out windows at the start, nats (`held_out_kld`)
    after: float  # the same of the state that is kept, nats
    steps: int  # steps that were taken
    best_step: int  # the step whose state is kept; 0: that of the start


class BestState:
    """The student's state of the smallest held-out KLD so far."""

    def __init__(self, student: Student, kld: float) -> None:
        self.student, self.kld, self.step, self.state = student, kld, 0, student.state()

    def update(self, kld: float, step: int) -> None:
        """Take the present state if its held-out KLD is smaller."""
        if kld < self.kld:
            self.kld, self.step, self.state = kld, step, self.student.state()


def polish_student(
    student: Student, teacher: Teacher, settings: PolishSettings, say: Callable[[str], None]
) -> PolishOutcome:
    """Train the student and leave it in the state of the smallest held-out KLD.

    That is the start where no step got better. `say` is called with a line of progress at each
    check.
    """
    held_out = list(range(0, len(teacher.windows), settings.held_out_every))
    train = [i for i in range(len(teacher.windows)) if i % settings.held_out_every]
    total = max(1, round(settings.epochs * len(train) / settings.batch))
    adam, batches = RelativeAdam(student.trained(), settings), shuffled_batches(train, settings)
    before = held_out_kld(student, teacher, held_out)
    best, rate = BestState(student, before), settings.rate * before**0.5
    start, interval = time.monotonic(), max(1, total // settings.checks)
    for number in range(1, total + 1):
        add_gradients(student, teacher, next(batches))
        adam.step(rate * min(1.0, number / settings.rise) * (1 - (number - 1) / total))
        if number % interval == 0 or number == total:
            kld = held_out_kld(student, teacher, held_out)
            best.update(kld, number)
            left = (time.monotonic() - start) / number * (total - number)
            share = f"{kld:.6f} nats on held-out text, {kld / before:.3f} of before"
            say(f"step {number} of {total}: {share}, {left:.0f} s left")
    student.restore(best.state)
    return PolishOutcome(before, best.kld, total, best.step)


def add_gradients(student: Student, teacher: Teacher, chosen: list[int]) -> None:
    """Add the loss's gradients over some windows to those of the student."""
    logits = student.logits(teacher.windows[chosen], student.weights())
    kld = divergence(teacher.logits(chosen), logits).mean(1)
    loss = kld.clamp_min(SMALLEST_KLD).log().mean()
    loss.backward()  # type: ignore[no-untyped-call]


def shuffled_batches(train: list[int], settings: PolishSettings) -> Iterator[list[int]]:
    """Yield batches of training windows without end, every window once an epoch."""
    rng, left = np.random.default_rng(settings.seed), list[int]()
    while True:
        if len(left) < settings.batch:
            left = left + [train[i] for i in rng.permutation(len(train))]
        chosen, left = left[: settings.batch], left[settings.batch :]
        yield chosen


def held_out_kld(student: Student, teacher: Teacher, windows: list[int]) -> float:
    """Return the geometric mean over windows of the mean KLD of a window's second half, nats.

    The second half alone counts, as in the quality probe.
    """
    klds, half = [], teacher.windows.shape[1] // 2
    with torch.no_grad():
        weights = student.weights()
        for i in windows:
            logits = student.logits(teacher.windows[i : i + 1], weights)
            scored = teacher.logits([i])[:, half - 1 : -1], logits[:, half - 1 : -1]
            klds.append(divergence(*scored).mean())
    return float(torch.stack(klds).double().clamp_min(SMALLEST_KLD).log().mean().exp())
