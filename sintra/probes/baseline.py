"""The 16-bit model's log-probabilities over a text: what every variant is compared with.

Small vocabularies are kept whole in float32; of large ones the top k and the probability mass of
the rest, which EvoPress (arXiv 2410.14649) found of comparable effect for k >= 512.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.core.types import Measurement
from sintra.formats.runtime.llama_cpp import open_model
from sintra.probes.measurements import write_measurements

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

WHOLE_VOCABULARY = 8192


def run(context: Context) -> None:
    """Write tokens.npy (windows, context), logp.npy and, for a large vocabulary, ids.npy and
    rest.npy; nll.npy and bytes.npy, how many bytes of text each scored token stands for, (windows,
    scored positions).
    """
    gguf, text = (
        context.inputs["gguf"] / "model.gguf",
        (context.inputs["text"] / "text.txt").read_text(),
    )
    with open_model(gguf, context.params["context"], context.threads) as model:
        windows = model.windows(text, context.params["tokens"])
        first, k = model.context // 2, context.params["top_k"]
        rows = model.context - 1 - first
        width = model.vocabulary if model.vocabulary <= WHOLE_VOCABULARY else k
        logp = _memmap(context, "logp.npy", np.float32, (len(windows) * rows, width))
        ids = rest = None
        if width < model.vocabulary:
            ids = _memmap(context, "ids.npy", np.int32, logp.shape)
            rest = _memmap(context, "rest.npy", np.float32, logp.shape[:1])
        nll = np.empty((len(windows), rows))
        sizes = model.token_bytes(windows[:, first + 1 :])
        for i, window in enumerate(windows):
            found, at = model.log_probs(window, first), slice(i * rows, (i + 1) * rows)
            nll[i] = -found[np.arange(rows), window[first + 1 :]]
            if ids is None or rest is None:
                logp[at] = found
            else:
                ids[at] = np.argpartition(found, -k, axis=1)[:, -k:]
                logp[at] = np.take_along_axis(found, ids[at], axis=1)
                rest[at] = np.log(np.maximum(1 - np.exp(logp[at].astype(np.float64)).sum(1), 1e-12))
            context.say(f"window {i + 1} of {len(windows)}")
    logp.flush()
    np.save(context.out / "tokens.npy", windows)
    np.save(context.out / "nll.npy", nll)
    np.save(context.out / "bytes.npy", sizes)
    value = float(np.exp(nll.mean()))
    error = value * float(nll.mean(1).std(ddof=1) / np.sqrt(len(windows)))
    write_measurements(
        context,
        [
            Measurement(
                "ppl",
                value,
                "1",
                "measured",
                error,
                nll.size,
                protocol=describe_protocol(context, model.context),
            )
        ],
    )


def describe_protocol(context: Context, size: int) -> str:
    """How the numbers came about, in a few words."""
    return f"windows of {size}, second half scored"


def _memmap(context: Context, name: str, kind: Any, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(context.out / name, "w+", kind, shape)


STAGE = Stage("baseline", 2, run, tools=("llama-cpp-python",))
