"""Measure the speed of any runtime's model by one protocol."""

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
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")


class TimedModel(Protocol):
    """A model with a context (KV cache) that tokens are fed into."""

    vocabulary: int  # tokens

    def clear(self) -> None:
        """Empty the KV cache."""

    def feed(self, ids: NDArray[np.int32], start: int = 0) -> None:
        """Compute tokens (n,) at positions from `start`."""

    def wait(self) -> None:
        """Wait until everything that was fed is computed."""


def measure_speeds(
    model: TimedModel, prompt: int, generate: int, repeat: int, threads: int
) -> list[Measurement]:
    """Measure pp_tps and tg_tps in tokens per second.

    Random tokens, an empty context each time, one warm-up, then the median of `repeat` runs.
    prompt, generate: tokens of a run; threads: for the protocol's text only.
    """
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


def feed_batch(model: TimedModel, ids: NDArray[np.int32]) -> None:
    """Feed all tokens (n,) in one batch into an empty context."""
    model.clear()
    model.feed(ids)
    model.wait()


def feed_one_by_one(model: TimedModel, ids: NDArray[np.int32]) -> None:
    """Feed tokens (n,) one after the other into an empty context."""
    model.clear()
    for position in range(len(ids)):
        model.feed(ids[position : position + 1], start=position)
        model.wait()


def measure_rate(
    metric: str, tokens: int, repeat: int, work: Callable[[], None], threads: int
) -> Measurement:
    """Measure tokens per second of `work`, which computes `tokens` tokens.

    The value is the median, and the error the standard error of the mean.
    """
    work()
    rates = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        rates.append(tokens / (time.perf_counter() - start))
    protocol = f"{tokens} tokens, {threads} threads, median of {repeat} after a warm-up"
    return summarize_rates(metric, rates, machine(), protocol)


def summarize_rates(metric: str, rates: list[float], where: str, protocol: str) -> Measurement:
    """Return repeated rates in tokens/s as a measurement: their median and their range."""
    return Measurement(
        metric,
        statistics.median(rates),
        "tokens/s",
        "measured",
        standard_error(rates),
        len(rates),
        min(rates),
        max(rates),
        where,
        protocol,
    )


def standard_error(rates: list[float]) -> float | None:
    """Return the standard error of the mean; None for a single rate."""
    return statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None
