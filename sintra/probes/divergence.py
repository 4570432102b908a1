"""Compare a model's predictions with the 16-bit model's on the same tokens, in any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sintra.core import lazy
from sintra.core.stage import Context
from sintra.core.types import Measurement
from sintra.probes.measurements import write_measurements

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

RESAMPLES = 1000  # of the bootstrap


class LogProbModel(Protocol):
    """A model that gives log-probabilities."""

    def log_probs(self, window: NDArray[np.int32], first: int) -> NDArray[np.float32]:
        """Return log-probabilities in nats of the tokens after positions first..end-2.

        window: (context,) token ids. Returns (context - 1 - first, vocabulary).
        """


@dataclass(frozen=True)
class Baseline:
    """The files of the baseline step, mapped and not read until they are needed.

    A row is a scored position; rows = windows x scored positions of a window.
    """

    windows: NDArray[np.int32]  # token ids, (windows, context)
    logp: NDArray[np.float32]  # log-probabilities in nats, (rows, vocabulary or top k)
    nll: Array  # of the text's tokens in nats, (windows, scored positions)
    ids: NDArray[np.int32] | None  # the tokens of logp, (rows, top k); None: the whole vocabulary
    rest: NDArray[np.float32] | None  # log of the other tokens' probability, (rows,)
    bytes: NDArray[np.int32] | None  # bytes of text of each scored token, as nll
    drawn_ids: NDArray[np.int32] | None = None  # tokens drawn from the others, (rows, drawn)
    drawn_logp: NDArray[np.float32] | None = None  # their log-probabilities, (rows, drawn)

    @staticmethod
    def read(folder: Path) -> Baseline:
        """Map the files of a baseline artifact's folder."""

        def load_array(name: str) -> Any:
            path = folder / f"{name}.npy"
            return np.load(path, mmap_mode="r") if path.exists() else None

        names = ("tokens", "logp", "nll", "ids", "rest", "bytes", "drawn_ids", "drawn_logp")
        return Baseline(*(load_array(name) for name in names))

    def divergence(self, rows: slice, logq: NDArray[np.float32]) -> tuple[Array, NDArray[np.bool_]]:
        """Return KL(baseline || variant) in nats and whether the first tokens agree, both (rows,).

        logq: the variant's log-probabilities in nats, (rows, vocabulary). Where only the top k of
        the baseline are stored, what the others add is estimated without bias: their probability
        times the mean of log p - log q over tokens that were drawn from them by p.
        """
        logp = np.asarray(self.logp[rows], dtype=np.float64)
        top = logp.argmax(1)
        if self.ids is None:
            return (np.exp(logp) * (logp - logq)).sum(1), top == logq.argmax(1)
        assert self.rest is not None  # these three are written with ids
        assert self.drawn_ids is not None
        assert self.drawn_logp is not None
        ids = np.asarray(self.ids[rows])
        stored = np.take_along_axis(logq, ids, axis=1).astype(np.float64)
        drawn = np.asarray(self.drawn_logp[rows], dtype=np.float64)
        drawn -= np.take_along_axis(logq, np.asarray(self.drawn_ids[rows]), axis=1)
        rest = np.exp(np.asarray(self.rest[rows], dtype=np.float64))
        kld = (np.exp(logp) * (logp - stored)).sum(1) + rest * drawn.mean(1)
        return kld, ids[np.arange(len(top)), top] == logq.argmax(1)


def score_model(
    model: LogProbModel, base: Baseline, seed: int, runtime: str, say: Callable[[str], None]
) -> tuple[list[Measurement], Array]:
    """Measure a variant against the baseline.

    seed: of the bootstrap; runtime: named in the protocol where it is not empty. Returns the
    measurements, and every scored position's divergence in nats, (windows, positions).
    """
    count, size = base.windows.shape
    first = size // 2
    positions = size - 1 - first
    kld, same, nll = (np.empty((count, positions)) for _ in range(3))
    for i in range(count):
        window = np.asarray(base.windows[i])
        logq = model.log_probs(window, first)
        kld[i], same[i] = base.divergence(slice(i * positions, (i + 1) * positions), logq)
        nll[i] = -logq[np.arange(positions), window[first + 1 :]]
        say(f"window {i + 1} of {count}")
    protocol = window_protocol(size) + (f"; {runtime}" if runtime else "")
    return [
        *divergence_measurements(kld, same, nll, np.asarray(base.nll), seed, protocol),
        bits_per_byte(nll, np.asarray(base.bytes), seed, protocol),
    ], kld


def window_protocol(size: int) -> str:
    """Describe how text is scored, in a few words; size: tokens of a window."""
    return f"windows of {size}, second half scored"


def write_scores(context: Context, measurements: Iterable[Measurement], kld: Array) -> None:
    """Write measurements.json (names begin with params["prefix"]) and kld.npy in float32."""
    np.save(context.out / "kld.npy", kld.astype(np.float32))
    prefix = context.params.get("prefix", "")
    write_measurements(context, [replace(m, metric=prefix + m.metric) for m in measurements])


def divergence_measurements(
    kld: Array, same: Array, nll: Array, base_nll: Array, seed: int, protocol: str
) -> list[Measurement]:
    """Return the numbers with their standard errors, bootstrapped over windows.

    All arrays are (windows, positions). kld, nll, base_nll: nats; same: whether both models put the
    same token first.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(kld), (RESAMPLES, len(kld)))

    def measure(
        metric: str, unit: str, statistic: Callable[[NDArray[np.int64]], float]
    ) -> Measurement:
        """Return a statistic of all windows; it takes the indices of windows."""
        everything = np.arange(len(kld))
        error = float(np.std([statistic(d) for d in draws], ddof=1))
        return Measurement(
            metric, statistic(everything), unit, "measured", error, kld.size, protocol=protocol
        )

    means = {
        "kld": kld.mean(1),
        "same": same.mean(1),
        "nll": nll.mean(1),
        "gap": (nll - base_nll).mean(1),
    }
    return [
        measure("kld_mean", "nats", lambda d: float(means["kld"][d].mean())),
        measure("kld_p999", "nats", lambda d: float(np.quantile(kld[d], 0.999))),
        measure("same_top", "1", lambda d: float(means["same"][d].mean())),
        measure("ppl", "1", lambda d: float(np.exp(means["nll"][d].mean()))),
        measure("ppl_ratio", "1", lambda d: float(np.exp(means["gap"][d].mean()))),
    ]


def bits_per_byte(nll: Array, sizes: NDArray[np.int32], seed: int, protocol: str) -> Measurement:
    """Return the bits that the model needs for a byte of the scored text.

    nll: nats; sizes: bytes of each token; both (windows, positions).
    """
    bits, count = nll.sum(1) / np.log(2), sizes.sum(1)
    draws = np.random.default_rng(seed).integers(0, len(bits), (RESAMPLES, len(bits)))
    error = float((bits[draws].sum(1) / count[draws].sum(1)).std(ddof=1))
    value = float(bits.sum() / count.sum())
    return Measurement(
        "bits_per_byte", value, "bits", "measured", error, nll.size, protocol=protocol
    )
