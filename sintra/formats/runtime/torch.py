"""Run a checkpoint with transformers.

TorchModel has the calls of sintra.formats.runtime.llama_cpp.LlamaModel that the probes need, so
that one protocol serves both. It reads 16-bit checkpoints, compressed-tensors, and GPTQ's own
format, of which also what auto-gptq wrote (quantize_config.json), through GPTQModel. On a CPU it
computes in float32, on a GPU in the checkpoint's own type.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.checkpoint.packed import read_quantization
from sintra.formats.runtime.llama_cpp import log_softmax

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


class TorchModel:
    """A loaded checkpoint with a KV cache."""

    device: str  # "cpu" or "cuda"
    net: Any  # the network of transformers
    vocabulary: int  # tokens
    runtime: str  # transformers' version and the device, for a measurement's protocol
    cache: Any  # keys and values of the tokens so far; None: empty

    def __init__(self, folder: Path, threads: int) -> None:
        import transformers  # optional, slow to import

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net = load_network(folder, self.device)
        self.net.eval()
        self.vocabulary = self.net.config.get_text_config().vocab_size
        self.runtime = (
            f"transformers {transformers.__version__}, "
            f"{'CPU' if self.device == 'cpu' else torch.cuda.get_device_name()}"
        )
        self.cache = None

    def log_probs(self, window: NDArray[np.int32], first: int) -> NDArray[np.float32]:
        """Return log-probabilities in nats of the next token after positions first..end-2.

        window: (context,) token ids. Returns (context - 1 - first, vocabulary). Raises Infeasible
        where they are not finite.
        """
        with torch.no_grad():
            logits = self.net(input_ids=self._batch(window), use_cache=False).logits[0, first:-1]
        return log_softmax(logits.float().cpu().numpy())

    def clear(self) -> None:
        """Empty the KV cache."""
        self.cache = None

    def feed(self, ids: NDArray[np.int32], start: int = 0) -> None:
        """Compute tokens (n,) that follow those in the cache.

        Only the last one's logits are computed, as llama.cpp does.
        """
        with torch.no_grad():
            out = self.net(
                input_ids=self._batch(ids),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = out.past_key_values

    def wait(self) -> None:
        """Wait until everything that was fed is computed."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _batch(self, ids: NDArray[np.int32]) -> torch.Tensor:
        """Return token ids (n,) as a batch of one, (1, n), on the device."""
        return torch.from_numpy(np.array(ids)).long()[None].to(self.device)


def load_network(folder: Path, device: str) -> Any:
    """Load the network of a checkpoint. Raises Infeasible("unsupported") where that fails."""
    method = read_quantization(folder).get("method")
    try:
        if method in ("gptq", "awq"):
            return load_gptq(folder, device)
        import transformers  # optional, slow to import

        dtype: Any = torch.float32 if device == "cpu" else "auto"
        loader: Any = transformers.AutoModelForCausalLM
        return loader.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        ).to(device)
    except (ImportError, ValueError, KeyError) as error:
        raise Infeasible(
            "unsupported",
            f"transformers can't load the checkpoint ({method or '16 bit'}): {error}"[:200],
        ) from None


def load_gptq(folder: Path, device: str) -> Any:
    """Load a GPTQ checkpoint through GPTQModel, with its portable torch kernel on a CPU."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND, GPTQModel  # only in the format's environment

    backend = BACKEND.TORCH if device == "cpu" else BACKEND.AUTO
    return GPTQModel.load(
        str(folder), device=device, backend=backend, trust_remote_code=False
    ).model
