"""Continue many sequences of tokens at once with llama.cpp: one step decodes a token of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.runtime.llama_cpp import LlamaModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

BATCH = 2048  # tokens that are decoded at once, at most


class Piece(NamedTuple):
    """Tokens that go behind a sequence."""

    sequence: int  # number, from 0
    start: int  # position of the first token
    tokens: Sequence[int]  # ids


class SequencePool(LlamaModel):
    """A loaded GGUF with room for several sequences. Call `close` at the end."""

    def __init__(self, path: Path, context: int, threads: int, count: int) -> None:
        """context: tokens of a sequence, at most; count: how many sequences.

        Raises Malformed for a damaged file, Infeasible where llama.cpp refuses.
        """
        self.count = count
        super().__init__(path, context, threads)

    def _open_context(self, threads: int, kv: str, ubatch: int) -> None:
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = self.context * self.count, self.count
        params.n_batch, params.n_ubatch = BATCH, min(BATCH, 512)
        params.n_threads = params.n_threads_batch = threads
        self._init_context(params, f"{self.count} contexts of {self.context}")

    def extend(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Decode a piece of each sequence and return the logits of the next token, (pieces, v).

        Raises Infeasible where llama.cpp cannot decode, or a piece is too long.
        """
        found: list[NDArray[np.float32]] = []
        part: list[Piece] = []
        for piece in pieces:
            if sum(len(p.tokens) for p in part) + len(piece.tokens) > BATCH:
                found.append(self._decode(part))
                part = []
            part.append(piece)
        found.append(self._decode(part))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _decode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        batch, count = self.batch, 0
        assert batch is not None
        if sum(len(p.tokens) for p in pieces) > BATCH:
            raise Infeasible("unsupported", f"a piece has more than {BATCH} tokens")
        for piece in pieces:
            for offset, token in enumerate(piece.tokens):
                batch.token[count], batch.pos[count] = token, piece.start + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, piece.sequence
                batch.logits[count] = offset == len(piece.tokens) - 1
                count += 1
        batch.n_tokens = count
        self._decode_batch()
        raw = self.lib.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(raw, shape=(len(pieces), self.vocabulary)).copy()

    def drop(self, sequence: int) -> None:
        """Empty a sequence, so that another can begin in its place."""
        memory = self.lib.llama_get_memory(self.ctx)
        self.lib.llama_memory_seq_rm(memory, sequence, -1, -1)
