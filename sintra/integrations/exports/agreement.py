"""How like two runtimes' logits of one model are, over the same tokens; and the model as a plain
function of token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def plain(folder: Path) -> Any:
    """A checkpoint as a torch module: token ids (batch, length) -> logits (batch, length,
    vocabulary), float32.

    Eager attention and no cache: what exporters can follow. Raises OSError, ValueError as
    transformers does.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    net = loader.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    return wrapped(net)


def wrapped(net: Any) -> Any:
    """A transformers network as a function of token ids alone."""

    class Logits(torch.nn.Module):
        """The network without everything but its logits."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            """(batch, length) int64 -> (batch, length, vocabulary)."""
            logits: torch.Tensor = self.net(input_ids=input_ids, use_cache=False).logits
            return logits

    return Logits().eval()


def logits(net: Any, ids: NDArray[Any]) -> NDArray[np.float32]:
    """PyTorch's, (windows, length, vocabulary), one window after the other."""
    with torch.no_grad():
        rows = [net(torch.from_numpy(np.array(row)).long()[None])[0].float().numpy() for row in ids]
    return np.stack(rows)


def likeness(reference: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, float]:
    """Two runtimes' logits over the same tokens, (windows, length, vocabulary).

    {"max_abs", "mean_abs": differences of logits; "kld_mean": mean KL divergence to the reference
    in nats a token; "same_top": share of equal top tokens; "tokens"}. Raises Infeasible for logits
    that are no numbers.
    """
    from scipy.special import log_softmax

    one, two = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (reference, other))
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise Infeasible("not_a_number", "a runtime's logits are not finite")
    gap = np.abs(one - two)
    first, second = log_softmax(one, axis=-1), log_softmax(two, axis=-1)
    kld = (np.exp(first) * (first - second)).sum(axis=-1)
    return {
        "max_abs": float(gap.max()),
        "mean_abs": float(gap.mean()),
        "kld_mean": float(kld.mean()),
        "same_top": float((one.argmax(-1) == two.argmax(-1)).mean()),
        "tokens": len(one),
    }


def reason(error: BaseException) -> str:
    """What an exporter stumbled over, in a line: its own words are pages, and the cause is at the
    bottom of them.
    """
    import re

    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()]
    return f"{type(error).__name__}: {next((line for line in lines if line), 'no word')}"[:200]


def words(found: dict[str, Any]) -> str:
    """A likeness in a line."""
    return (
        f"logits differ from PyTorch's by at most {found['max_abs']:.2g} ({found['kld_mean']:.2g} "
        f"nats a token, {found['same_top']:.1%} equal top tokens, {found['tokens']} tokens)"
    )
