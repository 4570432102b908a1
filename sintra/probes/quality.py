"""How far a variant's predictions are from the 16-bit model's, on the same tokens.

Mean KL divergence in nats (the primary number), its 99.9th percentile, the share of positions with the same top token,
perplexity and its ratio to the baseline's, and bits per byte of text, by which models with different tokenizers can be
compared. Standard errors are bootstrapped over windows, since tokens within one are correlated. kld.npy keeps every
position's divergence, so that two variants can be compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra import lazy
from sintra.llama import opened
from sintra.report import write
from sintra.stage import Context, Stage
from sintra.types import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

RESAMPLES = 1000


@dataclass(frozen=True)
class Baseline:
    """What the baseline step wrote, mapped and not read until it is needed."""

    windows: Any
    logp: Any
    nll: Any
    ids: Any = None
    rest: Any = None

    @staticmethod
    def read(folder: Path) -> Baseline:
        """From its folder."""
        names = ("tokens", "logp", "nll", "ids", "rest")
        return Baseline(
            *(np.load(folder / f"{n}.npy", mmap_mode="r") if (folder / f"{n}.npy").exists() else None for n in names)
        )

    def divergence(self, at: slice, q: NDArray[np.float32]) -> tuple[Array, NDArray[np.bool_]]:
        """KL(baseline || variant) in nats and whether both put the same token first, for each row of log-probs q."""
        p = np.asarray(self.logp[at], dtype=np.float64)
        top = p.argmax(1)
        if self.ids is None:
            return (np.exp(p) * (p - q)).sum(1), top == q.argmax(1)
        ids = np.asarray(self.ids[at])
        chosen = np.take_along_axis(q, ids, axis=1).astype(np.float64)
        rest_q = np.log(np.maximum(1 - np.exp(chosen).sum(1), 1e-12))
        rest_p = np.asarray(self.rest[at], dtype=np.float64)
        kld = (np.exp(p) * (p - chosen)).sum(1) + np.exp(rest_p) * (rest_p - rest_q)
        return kld, ids[np.arange(len(top)), top] == q.argmax(1)


def run(context: Context) -> None:
    """Write measurements.json (metrics named with params["prefix"] in front) and kld.npy (windows, scored positions)."""
    base = Baseline.read(context.inputs["baseline"])
    count, size = base.windows.shape
    first = size // 2
    rows = size - 1 - first
    kld, same, nll = (np.empty((count, rows)) for _ in range(3))
    with opened(context.inputs["gguf"] / "model.gguf", size, context.threads, kv=context.params.get("kv", "f16")) as model:
        for i in range(count):
            window = np.asarray(base.windows[i])
            q = model.log_probs(window, first)
            kld[i], same[i] = base.divergence(slice(i * rows, (i + 1) * rows), q)
            nll[i] = -q[np.arange(rows), window[first + 1 :]]
            context.say(f"window {i + 1} of {count}")
    np.save(context.out / "kld.npy", kld.astype(np.float32))
    protocol = f"windows of {size}, second half scored"
    rows_found = measurements(kld, same, nll, np.asarray(base.nll), context.params["seed"], protocol)
    rows_found.append(per_byte(nll, np.load(context.inputs["baseline"] / "bytes.npy"), context.params["seed"], protocol))
    prefix = context.params.get("prefix", "")
    write(context, [replace(m, metric=prefix + m.metric) for m in rows_found])


def measurements(kld: Array, same: Array, nll: Array, base: Array, seed: int, protocol: str) -> list[Measurement]:
    """The numbers with their standard errors; all arrays are (windows, positions)."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(kld), (RESAMPLES, len(kld)))

    def row(metric: str, unit: str, of: Callable[[NDArray[Any]], float]) -> Measurement:
        everything = np.arange(len(kld))
        spread = float(np.std([of(d) for d in draws], ddof=1))
        return Measurement(metric, of(everything), unit, "measured", spread, kld.size, protocol=protocol)

    sums = {"kld": kld.mean(1), "same": same.mean(1), "nll": nll.mean(1), "gap": (nll - base).mean(1)}
    return [
        row("kld_mean", "nats", lambda d: float(sums["kld"][d].mean())),
        row("kld_p999", "nats", lambda d: float(np.quantile(kld[d], 0.999))),
        row("same_top", "1", lambda d: float(sums["same"][d].mean())),
        row("ppl", "1", lambda d: float(np.exp(sums["nll"][d].mean()))),
        row("ppl_ratio", "1", lambda d: float(np.exp(sums["gap"][d].mean()))),
    ]


def per_byte(nll: Array, sizes: Array, seed: int, protocol: str) -> Measurement:
    """Bits that the model needs for a byte of the scored text; nll in nats, sizes in bytes, (windows, positions)."""
    bits, count = nll.sum(1) / np.log(2), sizes.sum(1)
    draws = np.random.default_rng(seed).integers(0, len(bits), (RESAMPLES, len(bits)))
    spread = float((bits[draws].sum(1) / count[draws].sum(1)).std(ddof=1))
    value = float(bits.sum() / count.sum())
    return Measurement("bits_per_byte", value, "bits", "measured", spread, nll.size, protocol=protocol)


STAGE = Stage("quality", 2, run, tools=("llama-cpp-python", "numpy"),
              metrics=("kld_mean", "kld_p999", "same_top", "ppl", "ppl_ratio", "bits_per_byte"))  # fmt: skip
