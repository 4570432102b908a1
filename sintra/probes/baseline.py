"""Store the 16-bit model's log-probabilities over a text: what every variant is compared with.

Small vocabularies are stored whole in float32; of large ones the top k and the probability mass of
the rest, which EvoPress (arXiv 2410.14649) found of comparable effect for k >= 512.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.core.types import Measurement
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.probes.divergence import window_protocol
from sintra.probes.measurements import write_measurements

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

WHOLE_VOCABULARY = 8192  # tokens: up to so many the whole distribution is stored


def run(context: Context) -> None:
    """Write the files of a divergence.Baseline, and measurements.json with the perplexity.

    tokens.npy (windows, context); logp.npy and, for a large vocabulary, ids.npy and rest.npy;
    nll.npy and bytes.npy, how many bytes of text each scored token stands for, both (windows,
    scored positions).
    """
    gguf = context.inputs["gguf"] / "model.gguf"
    text = (context.inputs["text"] / "text.txt").read_text()
    with open_model(gguf, context.params["context"], context.threads) as model:
        windows = model.windows(text, context.params["tokens"])
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
    """Write logp.npy and, for a large vocabulary, ids.npy and rest.npy.

    Returns the negative log-probabilities of the text's tokens in nats, (windows, scored
    positions).
    """
    first, k = model.context // 2, context.params["top_k"]
    positions = model.context - 1 - first
    width = model.vocabulary if model.vocabulary <= WHOLE_VOCABULARY else k
    logp = _new_array(context, "logp.npy", np.float32, (len(windows) * positions, width))
    ids = rest = None
    if width < model.vocabulary:
        ids = _new_array(context, "ids.npy", np.int32, logp.shape)
        rest = _new_array(context, "rest.npy", np.float32, logp.shape[:1])
    nll = np.empty((len(windows), positions))
    for i, window in enumerate(windows):
        log_probs = model.log_probs(window, first)
        rows = slice(i * positions, (i + 1) * positions)
        nll[i] = -log_probs[np.arange(positions), window[first + 1 :]]
        if ids is None or rest is None:
            logp[rows] = log_probs
        else:
            ids[rows] = np.argpartition(log_probs, -k, axis=1)[:, -k:]
            logp[rows] = np.take_along_axis(log_probs, ids[rows], axis=1)
            stored = np.exp(logp[rows].astype(np.float64)).sum(1)
            rest[rows] = np.log(np.maximum(1 - stored, 1e-12))
        context.say(f"window {i + 1} of {len(windows)}")
    logp.flush()
    return nll


def _new_array(context: Context, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Create a mapped .npy file of the artifact."""
    return np.lib.format.open_memmap(context.out / name, "w+", dtype, shape)


STAGE = Stage("baseline", 2, run, tools=("llama-cpp-python",))
