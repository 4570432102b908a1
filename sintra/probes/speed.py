"""Prompt processing (pp) and token generation (tg) on this machine, as llama-bench measures them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sintra import lazy
from sintra.llama import Model, opened
from sintra.report import write
from sintra.stage import Context, Stage, machine
from sintra.types import Measurement

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def run(context: Context) -> None:
    """Random tokens, an empty context each time, one warm-up, then the median of the repetitions."""
    prompt, generate, repeat = (context.params[k] for k in ("prompt", "generate", "repeat"))
    kv = context.params.get("kv", "f16")
    with opened(context.inputs["gguf"] / "model.gguf", max(prompt, generate), context.threads, kv=kv) as model:
        ids = np.random.default_rng(0).integers(0, model.vocabulary, max(prompt, generate)).astype(np.int32)
        found = [
            rate("pp_tps", prompt, repeat, lambda: whole(model, ids[:prompt]), context.threads),
            rate("tg_tps", generate, repeat, lambda: single(model, ids[:generate]), context.threads),
        ]
    write(context, found)


def whole(model: Model, ids: np.ndarray) -> None:
    """All tokens in one batch."""
    model.clear()
    model.feed(ids)
    model.wait()


def single(model: Model, ids: np.ndarray) -> None:
    """One token after the other."""
    model.clear()
    for position in range(len(ids)):
        model.feed(ids[position : position + 1], start=position)
        model.wait()


def rate(metric: str, tokens: int, repeat: int, work: Callable[[], None], threads: int) -> Measurement:
    """Tokens a second: the median, with the standard error of the mean beside it."""
    work()
    rates = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        rates.append(tokens / (time.perf_counter() - start))
    error = statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None
    return Measurement(metric, statistics.median(rates), "tokens/s", "measured", error, repeat, min(rates), max(rates),
                       machine(), f"{tokens} tokens, {threads} threads, median of {repeat} after a warm-up")  # fmt: skip


STAGE = Stage("speed", 1, run, ("llama-cpp-python",), "alone", platform=True, metrics=("pp_tps", "tg_tps"))
