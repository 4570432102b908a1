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


class Feeds(Protocol):
    """A model with a context (KV cache) that tokens are fed into."""

    vocabulary: int

    def clear(self) -> None:
        """Forget the context."""

    def feed(self, ids: np.ndarray, start: int = 0) -> None:
        """Tokens at positions from `start`."""

    def wait(self) -> None:
        """Until everything that was fed is computed."""


def speeds(
    model: Feeds, prompt: int, generate: int, repeat: int, threads: int
) -> list[Measurement]:
    """Random tokens, an empty context each time, one warm-up, then the median of the repetitions."""
    ids = (
        np.random.default_rng(0)
        .integers(0, model.vocabulary, max(prompt, generate))
        .astype(np.int32)
    )
    return [
        rate("pp_tps", prompt, repeat, lambda: whole(model, ids[:prompt]), threads),
        rate("tg_tps", generate, repeat, lambda: single(model, ids[:generate]), threads),
    ]


def whole(model: Feeds, ids: np.ndarray) -> None:
    """All tokens in one batch."""
    model.clear()
    model.feed(ids)
    model.wait()


def single(model: Feeds, ids: np.ndarray) -> None:
    """One token after the other."""
    model.clear()
    for position in range(len(ids)):
        model.feed(ids[position : position + 1], start=position)
        model.wait()


def rate(
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
