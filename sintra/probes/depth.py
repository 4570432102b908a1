"""Measure speed with a filled KV cache, as llama-bench's `-d`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.metrics import at_depth
from sintra.core.stage import Context, machine
from sintra.core.types import Measurement
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.hardware.estimate.estimate import UBATCH
from sintra.probes.timing import summarize_rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

GENERATE, REPEAT = 16, 2  # tokens and repetitions: a filled cache makes each of them slow


def reachable_depths(
    depths: Sequence[int], prompt_tps: float, fill_s: float | None
) -> tuple[int, ...]:
    """Return the depths that the cache can be filled to in the time, the smallest first.

    prompt_tps: speed of prompt processing, tokens/s; fill_s: seconds, None for any time.
    """
    ordered = sorted(set(depths) - {0})
    return tuple(d for d in ordered if fill_s is None or d / prompt_tps <= fill_s)


def measure_depths(
    context: Context, gguf: Path, prompt_tps: float, kv: str
) -> Iterator[Measurement]:
    """Yield prompt processing and generation at the step's depths, tokens/s.

    Depths that take too long to fill are left out, and so are all where the model's memory can't
    go back to where a measurement began.
    """
    params = context.params
    wanted = params.get("depth", [])
    depths = reachable_depths(wanted, prompt_tps, params.get("fill_s"))
    if len(depths) < len(set(wanted) - {0}):
        context.say("filling the cache would take too long: speed is measured without that")
    if not depths:
        return
    prompt, generate = min(params["prompt"], UBATCH), min(params["generate"], GENERATE)
    size = depths[-1] + max(prompt, generate)
    with open_model(gguf, size, context.threads, kv=kv, ubatch=min(size, UBATCH)) as model:
        ids = np.random.default_rng(0).integers(0, model.vocabulary, size).astype(np.int32)
        filled = 0
        for depth in depths:
            fill_cache(model, ids, filled, depth)
            filled = depth
            for metric, count, step in (("pp_tps", prompt, prompt), ("tg_tps", generate, 1)):
                rates = measure_behind(model, ids[depth : depth + count], depth, step)
                if not rates:
                    context.say("the model's memory can't be shortened: no speed at depth")
                    return
                text = f"{count} tokens behind {depth}, {context.threads} threads"
                protocol = f"{text}, median of {len(rates)}"
                yield summarize_rates(at_depth(metric, depth), rates, machine(), protocol)


def fill_cache(model: LlamaModel, ids: NDArray[np.int32], start: int, end: int) -> None:
    """Feed tokens at positions from `start` to `end`, in micro-batches."""
    for position in range(start, end, UBATCH):
        model.feed(ids[position : min(position + UBATCH, end)], start=position)
        model.wait()


def measure_behind(model: LlamaModel, ids: NDArray[np.int32], depth: int, step: int) -> list[float]:
    """Return tokens/s of feeding tokens (n,), `step` at once, behind a filled cache.

    Empty where the model's memory can't be shortened afterwards.
    """
    rates = []
    for _ in range(REPEAT):
        start = time.perf_counter()
        for offset in range(0, len(ids), step):
            model.feed(ids[offset : offset + step], start=depth + offset)
            model.wait()
        rates.append(len(ids) / (time.perf_counter() - start))
        if not model.truncate(depth):
            return []
    return rates
