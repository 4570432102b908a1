"""How speed and memory are measured, whatever runs the variant."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sintra.core import lazy
from sintra.core.stage import machine
from sintra.core.types import Measurement

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class TimedModel(Protocol):
    """A model with a context (KV cache) that tokens are fed into."""

    vocabulary: int

    def clear(self) -> None:
        """Forget the context."""

    def feed(self, ids: np.ndarray, start: int = 0) -> None:
        """Tokens at positions from `start`."""

    def wait(self) -> None:
        """Until everything that was fed is computed."""


def measure_speeds(
    model: TimedModel, prompt: int, generate: int, repeat: int, threads: int
) -> list[Measurement]:
    """Random tokens, an empty context each time, one warm-up, then the median of the repetitions."""
    ids = (
        np.random.default_rng(0)
        .integers(0, model.vocabulary, max(prompt, generate))
        .astype(np.int32)
    )
    return [
        measure_rate("pp_tps", prompt, repeat, lambda: feed_batch(model, ids[:prompt]), threads),
        measure_rate(
            "tg_tps", generate, repeat, lambda: feed_one_by_one(model, ids[:generate]), threads
        ),
    ]


def feed_batch(model: TimedModel, ids: np.ndarray) -> None:
    """All tokens in one batch."""
    model.clear()
    model.feed(ids)
    model.wait()


def feed_one_by_one(model: TimedModel, ids: np.ndarray) -> None:
    """One token after the other."""
    model.clear()
    for position in range(len(ids)):
        model.feed(ids[position : position + 1], start=position)
        model.wait()


def measure_rate(
    metric: str, tokens: int, repeat: int, work: Callable[[], None], threads: int
) -> Measurement:
    """Tokens a second: the median, with the standard error of the mean beside it."""
    work()
    rates = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        rates.append(tokens / (time.perf_counter() - start))
    error = statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None
    return Measurement(
        metric,
        statistics.median(rates),
        "tokens/s",
        "measured",
        error,
        repeat,
        min(rates),
        max(rates),
        machine(),
        f"{tokens} tokens, {threads} threads, median of {repeat} after a warm-up",
    )
