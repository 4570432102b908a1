"""What llama.cpp makes of a GGUF's vocabulary: who adds begin of text, and which tokens end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sintra.formats.runtime.llama_cpp import LlamaModel


@dataclass(frozen=True)
class Vocabulary:
    """The special tokens of a model."""

    adds_bos: bool  # whether runtimes put begin of text before every text
    bos: str  # its text; "" where there is none
    eos: str  # text of end of text; "" where there is none
    ends: tuple[int, ...]  # ids of the tokens that end an answer, end of text first
    texts: Mapping[int, str]  # the text of each of these


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a GGUF's vocabulary. Raises Malformed and Infeasible as LlamaModel does."""
    with closing(LlamaModel(path, 0, 1, vocab_only=True)) as model:
        ends = [model.eos] if model.eos >= 0 else []
        ends += [t for t in range(model.vocabulary) if t != model.eos and model.is_end(t)]
        texts = {token: model.token_text(token) for token in ends}
        return Vocabulary(
            model.adds_bos,
            model.token_text(model.bos),
            model.token_text(model.eos),
            tuple(token for token in ends if texts[token]),
            texts,
        )
