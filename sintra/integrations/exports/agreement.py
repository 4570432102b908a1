"""How closely another runtime's logits agree with PyTorch's over the same tokens.

It also holds what both exports of the original need: the checkpoint as a plain function of token
ids, and an exporter's error in one line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from sintra.core import lazy
from sintra.core.errors import Infeasible

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

# What came out right of both exports as a two-block model (bench/portable.py). Others are tried all
# the same.
ARCHITECTURES = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
)
REPORT_WINDOWS = 4  # windows of the report text that runtimes are compared on


class Agreement(TypedDict):
    """Differences between two runtimes' logits over the same tokens; comparison.json."""

    max_abs: float  # largest difference of two logits
    mean_abs: float  # mean difference of two logits
    kld_mean: float  # mean KL divergence to the reference, nats per token
    same_top: float  # share of tokens with equal top predictions, 0 to 1
    tokens: int  # how many were compared


def load_logits_module(folder: Path) -> Any:
    """Load a checkpoint as a torch module that maps token ids to logits, float32.

    Its input is (batch, length), its output (batch, length, vocabulary). Eager attention and no
    cache, which exporters can follow. Raises OSError, ValueError as transformers does.
    """
    import transformers  # takes seconds to import

    loader: Any = transformers.AutoModelForCausalLM
    network = loader.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    return logits_module(network)


def logits_module(network: Any) -> Any:
    """Wrap a transformers network as a function of token ids alone."""

    class Logits(torch.nn.Module):
        """The network without everything but its logits."""

        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            """Map (batch, length) int64 to (batch, length, vocabulary)."""
            logits: torch.Tensor = self.net(input_ids=input_ids, use_cache=False).logits
            return logits

    return Logits().eval()


def torch_logits(module: Any, ids: NDArray[Any]) -> NDArray[np.float32]:
    """Return PyTorch's logits, (windows, length, vocabulary), one window after the other."""
    with torch.no_grad():
        rows = [
            module(torch.from_numpy(np.array(row)).long()[None])[0].float().numpy() for row in ids
        ]
    return np.stack(rows)


def compare_logits(reference: NDArray[np.float32], other: NDArray[np.float32]) -> Agreement:
    """Compare two runtimes' logits over the same tokens, both (windows, length, vocabulary).

    Raises Infeasible for logits that are not finite.
    """
    from scipy.special import log_softmax  # only a comparison needs scipy

    first, second = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (reference, other))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise Infeasible("not_a_number", "a runtime's logits are not finite")
    gap = np.abs(first - second)
    log_p, log_q = log_softmax(first, axis=-1), log_softmax(second, axis=-1)
    kld = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return {
        "max_abs": float(gap.max()),
        "mean_abs": float(gap.mean()),
        "kld_mean": float(kld.mean()),
        "same_top": float((first.argmax(-1) == second.argmax(-1)).mean()),
        "tokens": len(first),
    }


def root_cause_line(error: BaseException) -> str:
    """Describe the cause at the bottom of an exporter's error in one line, 200 characters at most.

    An exporter's own message is pages long.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    return f"{type(error).__name__}: {next((line for line in lines if line), 'no message')}"[:200]


def agreement_line(agreement: Agreement) -> str:
    """Describe an agreement in one line."""
    return (
        f"logits differ from PyTorch's by at most {agreement['max_abs']:.2g} "
        f"({agreement['kld_mean']:.2g} nats per token, {agreement['same_top']:.1%} equal top "
        f"tokens, {agreement['tokens']} tokens)"
    )
