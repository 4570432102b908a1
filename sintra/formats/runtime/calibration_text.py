"""Windows of calibration tokens: text and random tokens, cut with llama.cpp's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context
from sintra.formats.runtime.llama_cpp import LlamaModel, noise_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")


@dataclass(frozen=True)
class CalibrationWindows:
    """Windows of token ids: the text's first, random ones behind them."""

    tokens: NDArray[np.int32]  # token ids, (windows, tokens of a window)
    text_count: int  # how many of the windows, the first ones, are text

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.tokens)


def window_size(context: Context, layout: Mapping[str, Any]) -> int:
    """Return the tokens of a window: params["context"], or the model's own context if smaller."""
    requested: int = context.params["context"]
    return min(requested, layout["context"] or requested)


def calibration_windows(
    context: Context, gguf: Path, layout: Mapping[str, Any], token_count: int | None = None
) -> CalibrationWindows:
    """Cut a step's calibration text into windows and add random ones.

    The vocabulary is that of `gguf`, the trained context that of `layout`. Reads inputs["text"] and
    params["context"], params["tokens"] (unless `token_count` is set) and params["random"] (the
    share of random windows, 0 where it is absent).
    Raises UserError where the text is shorter than two windows.
    """
    size = window_size(context, layout)
    share = context.params.get("random", 0.0)
    most = context.params["tokens"] if token_count is None else token_count
    with closing(LlamaModel(gguf, size, context.threads, vocab_only=True)) as tokenizer:
        windows = tokenizer.text_windows(context.inputs["text"], most)
        if not share:
            return CalibrationWindows(windows, len(windows))
        random = noise_windows(len(windows), size, share, tokenizer.normal_tokens())
    return CalibrationWindows(np.concatenate([windows, random]), len(windows))
