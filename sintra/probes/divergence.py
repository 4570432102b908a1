"""The statistics of the quality probes, whatever runs the variant: divergence from the 16-bit model
on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sintra.core import lazy
from sintra.core.types import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

RESAMPLES = 1000


class LogProbModel(Protocol):
    """Gives log-probabilities, in nats, of the tokens after positions first..end-2: (context - 1 -
    first, vocabulary).
    """

    def log_probs(self, window: NDArray[np.int32], first: int) -> NDArray[np.float32]:
        """Of one window of token ids."""


@dataclass(frozen=True)
class Baseline:
    """What the baseline step wrote, mapped and not read until it is needed."""

    windows: Any
    logp: Any
    nll: Any
    ids: Any = None
    rest: Any = None
    bytes: Any = None

    @staticmethod
    def read(folder: Path) -> Baseline:
        """From its folder."""
        names = ("tokens", "logp", "nll", "ids", "rest", "bytes")
        return Baseline(
            *(
                np.load(folder / f"{n}.npy", mmap_mode="r")
                if (folder / f"{n}.npy").exists()
                else None
                for n in names
            )
        )

    def divergence(self, at: slice, q: NDArray[np.float32]) -> tuple[Array, NDArray[np.bool_]]:
        """KL(baseline || variant) in nats and whether both put the same token first, for each row
        of log-probs q.
        """
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


def score_model(
    model: LogProbModel, base: Baseline, seed: int, runtime: str, say: Callable[[str], None]
) -> tuple[list[Measurement], Array]:
    """The measurements of a variant, and every scored position's divergence, (windows, positions)."""
    count, size = base.windows.shape
    first = size // 2
    rows = size - 1 - first
    kld, same, nll = (np.empty((count, rows)) for _ in range(3))
    for i in range(count):
        window = np.asarray(base.windows[i])
        q = model.log_probs(window, first)
        kld[i], same[i] = base.divergence(slice(i * rows, (i + 1) * rows), q)
        nll[i] = -q[np.arange(rows), window[first + 1 :]]
        say(f"window {i + 1} of {count}")
    protocol = f"windows of {size}, second half scored" + (f"; {runtime}" if runtime else "")
    found = divergence_measurements(kld, same, nll, np.asarray(base.nll), seed, protocol)
    return [*found, bits_per_byte(nll, np.asarray(base.bytes), seed, protocol)], kld


def divergence_measurements(
    kld: Array, same: Array, nll: Array, base: Array, seed: int, protocol: str
) -> list[Measurement]:
    """The numbers with their standard errors; all arrays are (windows, positions)."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(kld), (RESAMPLES, len(kld)))

    def row(metric: str, unit: str, of: Callable[[NDArray[Any]], float]) -> Measurement:
        everything = np.arange(len(kld))
        spread = float(np.std([of(d) for d in draws], ddof=1))
        return Measurement(
            metric, of(everything), unit, "measured", spread, kld.size, protocol=protocol
        )

    sums = {
        "kld": kld.mean(1),
        "same": same.mean(1),
        "nll": nll.mean(1),
        "gap": (nll - base).mean(1),
    }
    return [
        row("kld_mean", "nats", lambda d: float(sums["kld"][d].mean())),
        row("kld_p999", "nats", lambda d: float(np.quantile(kld[d], 0.999))),
        row("same_top", "1", lambda d: float(sums["same"][d].mean())),
        row("ppl", "1", lambda d: float(np.exp(sums["nll"][d].mean()))),
        row("ppl_ratio", "1", lambda d: float(np.exp(sums["gap"][d].mean()))),
    ]


def bits_per_byte(nll: Array, sizes: Array, seed: int, protocol: str) -> Measurement:
    """Bits that the model needs for a byte of the scored text; nll in nats, sizes in bytes,
    (windows, positions).
    """
    bits, count = nll.sum(1) / np.log(2), sizes.sum(1)
    draws = np.random.default_rng(seed).integers(0, len(bits), (RESAMPLES, len(bits)))
    spread = float((bits[draws].sum(1) / count[draws].sum(1)).std(ddof=1))
    value = float(bits.sum() / count.sum())
    return Measurement(
        "bits_per_byte", value, "bits", "measured", spread, nll.size, protocol=protocol
    )
