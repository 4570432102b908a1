"""llama.cpp through llama-cpp-python's low-level API: one model, one context, plain numpy."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.gguf import header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

WARN = 3
_lines: list[str] = []


def load_library() -> Any:
    """The library, its log caught: warnings and errors are kept for messages, the rest is dropped."""
    import llama_cpp

    if not hasattr(load_library, "sink"):

        @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
        def sink(level: int, text: bytes, _: object) -> None:
            if level >= WARN and text.strip():
                _lines.append(text.decode(errors="replace").strip())
                del _lines[:-20]

        load_library.sink = sink  # type: ignore[attr-defined]
        llama_cpp.llama_log_set(sink, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


def last_message() -> str:
    """The last thing that llama.cpp complained about."""
    return _lines[-1] if _lines else "no reason given"


def last_messages() -> str:
    """The last few things, a line each."""
    return "\n".join(_lines)


class LlamaModel:
    """A loaded GGUF. Use `opened`, which frees it."""

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
        header.read_gguf_header(path)
        self.lib = load_library()
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = 0, vocab_only
        params.load_mode = self.lib.LLAMA_LOAD_MODE_MMAP if mmap else self.lib.LLAMA_LOAD_MODE_NONE
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise Infeasible("unsupported", f"llama.cpp can't load {path.name}: {last_message()}")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.vocabulary: int = self.lib.llama_vocab_n_tokens(self.vocab)
        self.context, self.ctx, self.batch = context, None, None
        if not vocab_only:
            self._open_context(threads, kv, ubatch or context)

    def _open_context(self, threads: int, kv: str, ubatch: int) -> None:
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context
        params.n_ubatch = ubatch
        params.n_threads = params.n_threads_batch = threads
        if kv != "f16":
            import gguf

            params.type_k = params.type_v = int(gguf.GGMLQuantizationType[kv.upper()])
            params.flash_attn_type = (
                self.lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
            )  # values can't be quantized without
        self.ctx = self.lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise Infeasible(
                "out_of_memory",
                f"llama.cpp can't make a context of {self.context}: {last_message()}",
            )
        self.batch = self.lib.llama_batch_init(self.context, 0, 1)

    def close(self) -> None:
        """Free everything."""
        if self.batch is not None:
            self.lib.llama_batch_free(self.batch)
        if self.ctx is not None:
            self.lib.llama_free(self.ctx)
        self.lib.llama_model_free(self.model)

    @property
    def trained_context(self) -> int:
        """The context length that the model was trained for."""
        return int(self.lib.llama_model_n_ctx_train(self.model))

    @property
    def bos(self) -> int:
        """Begin of text, or -1."""
        return int(self.lib.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        """End of text, or -1."""
        return int(self.lib.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether every text starts with begin of text."""
        return bool(self.lib.llama_vocab_get_add_bos(self.vocab))

    def ends(self, token: int) -> bool:
        """Whether a token ends what is generated."""
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str, special: bool = False) -> NDArray[np.int32]:
        """Token ids of a text, without begin or end of text; special: control tokens in the text
        are read as such.
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
        """Token ids as the model is to be given them: control tokens are read as such, begin of
        text stands first where the vocabulary says so.
        """
        ids: list[int] = self.tokenize(text, special=True).tolist()
        return [self.bos, *ids] if self.adds_bos and ids[:1] != [self.bos] else ids

    def bytes_of(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many bytes of text each token stands for; control tokens stand for none."""
        room = ctypes.create_string_buffer(1024)
        known = {
            int(i): self.lib.llama_token_to_piece(self.vocab, int(i), room, 1024, 0, False)
            for i in np.unique(ids)
        }
        return np.array([max(0, known[int(i)]) for i in ids.ravel()], np.int32).reshape(ids.shape)

    def text(self, ids: list[int]) -> str:
        """The text of tokens; control tokens have none."""
        tokens = (self.lib.llama_token * len(ids))(*ids)
        size = 16 * len(ids) + 64
        while True:
            room = ctypes.create_string_buffer(size)
            count = int(
                self.lib.llama_detokenize(self.vocab, tokens, len(ids), room, size, False, False)
            )
            if count >= 0:
                return room.raw[:count].decode(errors="replace")
            size = -count

    def normal_tokens(self) -> NDArray[np.int32]:
        """The ids of the ordinary tokens: no control, unknown, unused or byte token."""
        normal = self.lib.LLAMA_TOKEN_ATTR_NORMAL
        found = [
            i
            for i in range(self.vocabulary)
            if self.lib.llama_vocab_get_attr(self.vocab, i) & normal
        ]
        return np.array(found, np.int32)

    def windows(self, text: str, tokens: int) -> NDArray[np.int32]:
        """A text cut into windows of the context, (n, context), with begin of text first where the
        model wants it.
        """
        ids = self.tokenize(text)
        count = min(tokens, len(ids)) // self.context
        if count < 2:
            raise Infeasible(
                "refused",
                f"the text has {len(ids)} tokens: fewer than two windows of {self.context}",
            )
        cut = ids[: count * self.context].reshape(count, self.context).copy()
        if self.lib.llama_vocab_get_add_bos(self.vocab):
            cut[:, 0] = self.lib.llama_vocab_bos(self.vocab)
        return cut

    def clear(self) -> None:
        """Forget the context."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)

    def feed(self, ids: NDArray[np.int32], start: int = 0, logits_from: int | None = None) -> None:
        """Decode tokens at positions from `start`; logits are kept from index `logits_from`
        (default: the last).
        """
        first = len(ids) - 1 if logits_from is None else logits_from
        batch = self.batch
        assert batch is not None
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids.tolist()):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i >= first
        code = self.lib.llama_decode(self.ctx, batch)
        if code:
            raise Infeasible(
                "unsupported", f"llama.cpp can't decode (code {code}): {last_message()}"
            )

    def log_probs(self, window: NDArray[np.int32], first: int) -> NDArray[np.float32]:
        """Log-probabilities in nats of the next token after positions first..end-2, (context - 1 -
        first, vocabulary).
        """
        self.clear()
        self.feed(window, logits_from=first)
        rows = len(window) - first
        raw = np.ctypeslib.as_array(
            self.lib.llama_get_logits(self.ctx), shape=(rows, self.vocabulary)
        )
        return log_softmax(raw[:-1])

    def keep(self, count: int) -> bool:
        """Forget everything after the first `count` positions; whether the model's memory can do
        that.
        """
        return bool(self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.ctx), 0, count, -1))

    def logits(self, ids: NDArray[np.int32], start: int, first: int) -> NDArray[np.float32]:
        """Feed tokens at positions from `start`; a copy of the logits from index `first` on,
        (len(ids) - first, vocabulary).
        """
        self.feed(ids, start, first)
        rows = (len(ids) - first, self.vocabulary)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.ctx), shape=rows).copy()

    def wait(self) -> None:
        """Until everything that was fed is computed."""
        self.lib.llama_synchronize(self.ctx)


def noise_windows(count: int, size: int, share: float, tokens: Any) -> Any:
    """Windows of random tokens (n, size), so many that they are `share` of all with `count` windows
    of text.

    They excite directions that the calibration text doesn't: without them rounding moves its errors
    there, where another text meets them (docs/benchmarks.md).
    """
    number = round(count * share / (1 - share))
    return np.random.default_rng(0).choice(tokens, (number, size)).astype(np.int32)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row-wise log-softmax, stable. Raises Infeasible for logits that are no numbers."""
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
    """A model with a context, freed at the end. kv: the cache's type (f16, q8_0, q4_0); ubatch: how
    many tokens are computed at once (default: the whole context).
    """
    model = LlamaModel(path, context, threads, mmap, kv=kv, ubatch=ubatch)
    try:
        yield model
    finally:
        model.close()
