"""Store the 16-bit model's log-probabilities over a text: what every variant is compared with.

Small vocabularies are stored whole in float32. Of large ones the top k are stored, and beside them
tokens drawn from the rest by their probability, from which `Baseline.divergence` has an unbiased
estimate of what the rest adds. The top k alone, with the rest as one token, is a lower bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.core.types import Measurement
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.probes.divergence import window_protocol
from sintra.probes.measurements import MEASUREMENTS_FILE, write_measurements

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

WHOLE_VOCABULARY = 8192  # tokens: up to so many the whole distribution is stored
DRAWN = 128  # tokens drawn at each position from those beside the top k


def run(context: Context) -> None:
    """Write the files of a divergence.Baseline, and measurements.json with the perplexity.

    tokens.npy (windows, context); logp.npy and, for a large vocabulary, ids.npy, rest.npy,
    drawn_ids.npy and drawn_logp.npy; nll.npy and bytes.npy, how many bytes of text each scored
    token stands for, both (windows, scored positions).
    """
    gguf = context.inputs["gguf"] / "model.gguf"
    with open_model(gguf, context.params["context"], context.threads) as model:
        windows = model.text_windows(context.inputs["text"], context.params["tokens"])
        nll = _write_log_probs(context, model, windows)
        sizes = model.token_bytes(windows[:, model.context // 2 + 1 :])
        size = model.context
    np.save(context.out / "tokens.npy", windows)
    np.save(context.out / "nll.npy", nll)
    np.save(context.out / "bytes.npy", sizes)
    ppl = float(np.exp(nll.mean()))
    error = ppl * float(nll.mean(1).std(ddof=1) / np.sqrt(len(windows)))
    row = Measurement("ppl", ppl, "1", "measured", error, nll.size, protocol=window_protocol(size))
    write_measurements(context, [row])


def _write_log_probs(
    context: Context, model: LlamaModel, windows: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Write the log-probabilities, whole or in part.

    Returns the negative log-probabilities of the text's tokens in nats, (windows, scored
    positions).
    """
    first = model.context // 2
    positions = model.context - 1 - first
    whole = model.vocabulary <= WHOLE_VOCABULARY
    size = (len(windows) * positions, model.vocabulary)
    writer = WholeWriter(context, size) if whole else PartWriter(context, size)
    nll = np.empty((len(windows), positions))
    for i, window in enumerate(windows):
        log_probs = model.log_probs(window, first)
        nll[i] = -log_probs[np.arange(positions), window[first + 1 :]]
        writer.write(slice(i * positions, (i + 1) * positions), log_probs)
        context.say(f"window {i + 1} of {len(windows)}")
    return nll


class WholeWriter:
    """Writes logp.npy, (rows, vocabulary)."""

    def __init__(self, context: Context, size: tuple[int, int]) -> None:
        self.logp = _new_array(context, "logp.npy", np.float32, size)

    def write(self, rows: slice, log_probs: NDArray[np.float32]) -> None:
        """Write log-probabilities in nats, (rows, vocabulary)."""
        self.logp[rows] = log_probs


class PartWriter:
    """Writes the top k of each row (logp.npy, ids.npy), the log of the others' probability
    (rest.npy), and tokens drawn from the others (drawn_ids.npy, drawn_logp.npy).
    """

    def __init__(self, context: Context, size: tuple[int, int]) -> None:
        """size: rows and vocabulary; reads params["top_k"]."""
        rows, vocabulary = size
        self.k = min(context.params["top_k"], vocabulary - 1)
        self.logp = _new_array(context, "logp.npy", np.float32, (rows, self.k))
        self.ids = _new_array(context, "ids.npy", np.int32, (rows, self.k))
        self.rest = _new_array(context, "rest.npy", np.float32, (rows,))
        self.drawn_ids = _new_array(context, "drawn_ids.npy", np.int32, (rows, DRAWN))
        self.drawn_logp = _new_array(context, "drawn_logp.npy", np.float32, (rows, DRAWN))

    def write(self, rows: slice, log_probs: NDArray[np.float32]) -> None:
        """Write log-probabilities in nats, (rows, vocabulary)."""
        ids = np.argpartition(log_probs, -self.k, axis=1)[:, -self.k :]
        self.ids[rows] = ids
        self.logp[rows] = np.take_along_axis(log_probs, ids, axis=1)
        others = np.exp(log_probs.astype(np.float64))
        np.put_along_axis(others, ids, 0.0, axis=1)
        rng = np.random.default_rng(rows.start)  # the same tokens in every run
        drawn, mass = draw_tokens(others, DRAWN, rng)
        self.rest[rows] = np.log(mass)
        self.drawn_ids[rows] = drawn
        self.drawn_logp[rows] = np.take_along_axis(log_probs, drawn, axis=1)


def draw_tokens(
    weights: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw tokens by their weights, with replacement, and return them with the weights' sums.

    weights: (rows, vocabulary), at least one of each row above 0. Returns (rows, count) and
    (rows,). Stratified: one draw from each of `count` equal parts of a row's mass, so that their
    mean is unbiased and varies less than that of independent draws.
    """
    cumulative = weights.cumsum(1)
    mass = cumulative[:, -1]
    points = (np.arange(count) + rng.random((len(weights), count))) / count * mass[:, None]
    drawn = np.empty((len(weights), count), np.int64)
    for row, (steps, targets) in enumerate(zip(cumulative, points, strict=True)):
        drawn[row] = np.searchsorted(steps, targets, side="right")
    # rounding may carry a point beyond the last token that has a weight
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
    return np.minimum(drawn, last[:, None]), mass


def _new_array(context: Context, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Create a mapped .npy file of the artifact."""
    return np.lib.format.open_memmap(context.out / name, "w+", dtype, shape)


STAGE = Stage(
    "baseline",
    3,
    run,
    tools=("llama-cpp-python",),
    files=("tokens.npy", "nll.npy", "bytes.npy", MEASUREMENTS_FILE),
    title="Original's predictions",
)
