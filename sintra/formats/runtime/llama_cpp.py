"""Run a GGUF with llama.cpp through llama-cpp-python's low-level API.

One model, one context, plain numpy arrays.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible, UserError
from sintra.core.kv_cache import kv_pair
from sintra.formats.gguf import header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

WARN = 3  # the level of warnings in llama.cpp's log; errors are above
KEPT_LINES = 20
STOP_IDS_KEY = "sintra.stop_token_ids"  # in a GGUF: tokens that llama.cpp doesn't know as ends
TOKENS_FILE = "tokens.npy"  # a text that is tokens already, (n,) int32; text.txt is for people
_log: list[str] = []  # the last warnings and errors of llama.cpp
_listeners: list[list[str]] = []  # lists that every line goes to


def load_library() -> Any:
    """Return llama_cpp, with its log caught.

    Warnings and errors are stored for messages, the rest is dropped.
    """
    import llama_cpp  # slow to import: not on the no-op path

    if not hasattr(load_library, "sink"):

        @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
        def sink(level: int, text: bytes, _: object) -> None:
            line = text.decode(errors="replace").strip()
            if level >= WARN and line:
                _log.append(line)
                del _log[:-KEPT_LINES]
            for listener in _listeners:
                listener.append(line)

        load_library.sink = sink  # type: ignore[attr-defined]
        llama_cpp.llama_log_set(sink, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


def last_message() -> str:
    """Return the last warning or error of llama.cpp."""
    return _log[-1] if _log else "no reason given"


def last_messages() -> str:
    """Return the last few warnings and errors of llama.cpp, a line each."""
    return "\n".join(_log)


@contextlib.contextmanager
def recorded_log() -> Iterator[list[str]]:
    """Yield a list that gets all that llama.cpp logs meanwhile, piece by piece."""
    pieces: list[str] = []
    _listeners.append(pieces)
    try:
        yield pieces
    finally:
        _listeners.remove(pieces)


class LlamaModel:
    """A loaded GGUF. `open_model` frees it at the end; else call `close`."""

    vocabulary: int  # tokens
    context: int  # tokens
    more_ends: frozenset[int]  # tokens that end an answer, beside those that llama.cpp knows

    def __init__(
        self,
        path: Path,
        context: int,
        threads: int,
        mmap: bool = True,
        vocab_only: bool = False,
        kv: str = "f16",
        ubatch: int | None = None,
    ) -> None:
        """Load a model.

        kv: the cache's type; ubatch: how many tokens are computed at once (default: context).
        Raises Malformed for a damaged file, Infeasible where llama.cpp refuses.
        """
        self.more_ends = header.read_numbers(path, header.read_gguf_header(path), STOP_IDS_KEY)
        self.lib = load_library()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = 0, vocab_only
        params.load_mode = self.lib.LLAMA_LOAD_MODE_MMAP if mmap else self.lib.LLAMA_LOAD_MODE_NONE
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise Infeasible("unsupported", f"llama.cpp can't load {path.name}: {last_message()}")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.vocab)
        self.context, self.ctx, self.batch = context, None, None
        if not vocab_only:
            self._open_context(threads, kv, ubatch or context)

    def _open_context(self, threads: int, kv: str, ubatch: int) -> None:
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context
        params.n_ubatch = ubatch
        params.n_threads = params.n_threads_batch = threads
        if kv != "f16":
            import gguf  # loads numpy

            types = [int(gguf.GGMLQuantizationType[t.upper()]) for t in kv_pair(kv)]
            params.type_k, params.type_v = types
            # values can't be quantized without flash attention
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._init_context(params, f"a context of {self.context}")

    def _init_context(self, params: Any, what: str) -> None:
        """Make the context and its batch. Raises Infeasible("out_of_memory")."""
        self.ctx = self.lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise Infeasible("out_of_memory", f"llama.cpp can't make {what}: {last_message()}")
        self.batch = self.lib.llama_batch_init(params.n_batch, 0, 1)

    def close(self) -> None:
        """Free the model, its context and its batch."""
        if self.batch is not None:
            self.lib.llama_batch_free(self.batch)
        if self.ctx is not None:
            self.lib.llama_free(self.ctx)
        self.lib.llama_model_free(self.model)

    @property
    def bos(self) -> int:
        """Return the token for begin of text, or -1."""
        return int(self.lib.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        """Return the token for end of text, or -1."""
        return int(self.lib.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """Return whether every text starts with begin of text."""
        return bool(self.lib.llama_vocab_get_add_bos(self.vocab))

    def is_end(self, token: int) -> bool:
        """Return whether a token ends what is generated: to llama.cpp, or because the model's
        folder said so.
        """
        return token in self.more_ends or bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def is_special(self, token: int) -> bool:
        """Return whether a token is none of ordinary text: control, added by hand, unused."""
        normal = self.lib.LLAMA_TOKEN_ATTR_NORMAL | self.lib.LLAMA_TOKEN_ATTR_BYTE
        return not self.lib.llama_vocab_get_attr(self.vocab, token) & normal

    def token_text(self, token: int) -> str:
        """Return a token as the vocabulary writes it; "" for one that isn't there."""
        if not 0 <= token < self.vocabulary:
            return ""
        text: bytes = self.lib.llama_vocab_get_text(self.vocab, token)
        return text.decode(errors="replace")

    def tokenize(self, text: str, special: bool = False) -> NDArray[np.int32]:
        """Return the token ids of a text, (n,), without begin or end of text.

        special: whether control tokens in the text are read as such. Raises Infeasible where the
        vocabulary does not cover the text.
        """
        raw = text.encode()
        room = (self.lib.llama_token * (len(raw) + 16))()
        count = self.lib.llama_tokenize(
            self.vocab, raw, len(raw), room, len(raw) + 16, False, special
        )
        if count < 0:
            raise Infeasible(
                "unsupported", "llama.cpp can't tokenize the text with this vocabulary"
            )
        return np.ctypeslib.as_array(room)[:count].astype(np.int32)

    def encode(self, text: str) -> list[int]:
        """Return the token ids that the model should get for a text.

        Control tokens are read as such; begin of text comes first where the vocabulary says so.
        """
        ids: list[int] = self.tokenize(text, special=True).tolist()
        return [self.bos, *ids] if self.adds_bos and ids[:1] != [self.bos] else ids

    def token_bytes(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return how many bytes of text each token stands for, in the shape of `ids`.

        Control tokens stand for none.
        """
        room = ctypes.create_string_buffer(1024)
        sizes = {
            int(i): self.lib.llama_token_to_piece(self.vocab, int(i), room, 1024, 0, False)
            for i in np.unique(ids)
        }
        return np.array([max(0, sizes[int(i)]) for i in ids.ravel()], np.int32).reshape(ids.shape)

    def detokenize(self, ids: list[int], special: bool = False) -> str:
        """Return the text of tokens; control tokens have none, unless `special` asks for it."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        size = 16 * len(ids) + 64
        while True:
            room = ctypes.create_string_buffer(size)
            count = int(
                self.lib.llama_detokenize(self.vocab, tokens, len(ids), room, size, False, special)
            )
            if count >= 0:
                return room.raw[:count].decode(errors="replace")
            size = -count

    def normal_tokens(self) -> NDArray[np.int32]:
        """Return the ids of ordinary tokens, (n,): no control, unknown, unused or byte token."""
        normal = self.lib.LLAMA_TOKEN_ATTR_NORMAL
        ids = [
            i
            for i in range(self.vocabulary)
            if self.lib.llama_vocab_get_attr(self.vocab, i) & normal
        ]
        return np.array(ids, np.int32)

    def windows(self, text: str, tokens: int) -> NDArray[np.int32]:
        """Cut the first `tokens` tokens of a text into windows, (n, context).

        Each starts with begin of text where the model needs it. Raises UserError for a text of
        fewer than two windows: that is no variant's failure.
        """
        return self.cut_windows(self.tokenize(text), tokens)

    def text_windows(self, folder: Path, tokens: int) -> NDArray[np.int32]:
        """Cut a text's first tokens into windows, as `windows` does.

        folder: as the steps of texts make it: tokens.npy, or text.txt alone.
        """
        return self.cut_windows(self.text_tokens(folder), tokens)

    def text_tokens(self, folder: Path) -> NDArray[np.int32]:
        """Return a text's token ids, (n,). folder: as text_windows has it."""
        path = folder / TOKENS_FILE
        if path.exists():
            ids: NDArray[np.int32] = np.load(path)
            return ids
        return self.tokenize((folder / "text.txt").read_text(encoding="utf-8"))

    def cut_windows(self, ids: NDArray[np.int32], tokens: int) -> NDArray[np.int32]:
        """Cut the first `tokens` of token ids (n,) into windows, as `windows` does."""
        count = min(tokens, len(ids)) // self.context
        if count < 2:
            raise UserError(
                f"the text has {len(ids)} tokens, of which {tokens} are asked for: fewer than two "
                f"windows of {self.context}; give a longer text or more tokens"
            )
        cut = ids[: count * self.context].reshape(count, self.context).copy()
        if self.adds_bos:
            cut[:, 0] = self.bos
        return cut

    def clear(self) -> None:
        """Empty the KV cache."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)

    def feed(self, ids: NDArray[np.int32], start: int = 0, logits_from: int | None = None) -> None:
        """Decode tokens (n,) at positions from `start`.

        Logits are kept from index `logits_from` on (default: the last). Raises
        Infeasible("unsupported") where llama.cpp cannot decode.
        """
        first = len(ids) - 1 if logits_from is None else logits_from
        batch = self.batch
        assert batch is not None
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids.tolist()):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i >= first
        self._decode_batch()

    def _decode_batch(self) -> None:
        """Decode what is in the batch. Raises Infeasible("unsupported")."""
        code = self.lib.llama_decode(self.ctx, self.batch)
        if code:
            raise Infeasible(
                "unsupported", f"llama.cpp can't decode (code {code}): {last_message()}"
            )

    def log_probs(self, window: NDArray[np.int32], first: int) -> NDArray[np.float32]:
        """Return log-probabilities in nats of the next token after positions first..end-2.

        window: (context,) token ids. Returns (context - 1 - first, vocabulary). Raises Infeasible
        where they are not finite.
        """
        self.clear()
        self.feed(window, logits_from=first)
        rows = len(window) - first
        raw = np.ctypeslib.as_array(
            self.lib.llama_get_logits(self.ctx), shape=(rows, self.vocabulary)
        )
        return log_softmax(raw[:-1])

    def truncate(self, count: int) -> bool:
        """Remove everything after the first `count` positions from the KV cache.

        Returns whether the model's memory can do that.
        """
        return bool(self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.ctx), 0, count, -1))

    def logits(self, ids: NDArray[np.int32], start: int, first: int) -> NDArray[np.float32]:
        """Feed tokens (n,) at positions from `start`, and return the logits from index `first` on.

        Returns a copy, (n - first, vocabulary).
        """
        self.feed(ids, start, first)
        rows = (len(ids) - first, self.vocabulary)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.ctx), shape=rows).copy()

    def wait(self) -> None:
        """Wait until everything that was fed is computed."""
        self.lib.llama_synchronize(self.ctx)


def noise_windows(
    count: int, size: int, share: float, tokens: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return windows of random tokens, (n, size), drawn from `tokens`.

    There are so many that they are `share` of all windows, together with `count` of text. They
    excite directions that the calibration text does not: without them rounding moves its errors
    there, where another text meets them (docs/benchmarks.md).
    """
    number = round(count * share / (1 - share))
    return np.random.default_rng(0).choice(tokens, (number, size)).astype(np.int32)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the row-wise log-softmax, (rows, vocabulary), computed stably.

    Raises Infeasible("not_a_number") for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise Infeasible("not_a_number", "the model's logits are not finite")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@contextlib.contextmanager
def open_model(
    path: Path,
    context: int,
    threads: int,
    mmap: bool = True,
    kv: str = "f16",
    ubatch: int | None = None,
) -> Iterator[LlamaModel]:
    """Open a model with a context, and free it at the end.

    context: tokens; kv: the cache's type (core.kv_cache); ubatch: how many tokens are computed at
    once (default: the whole context). Raises Infeasible where llama.cpp refuses.
    """
    model = LlamaModel(path, context, threads, mmap, kv=kv, ubatch=ubatch)
    try:
        yield model
    finally:
        model.close()
