"""A winner of outputs/ that answers: loaded by llama.cpp, with its own chat template, stop tokens
and context.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, variant_name
from sintra.formats.gguf.chat_template import read_chat
from sintra.store.files import hash_file

Message = dict[str, str]
DEFAULT_CONTEXT = 4096
_END = object()


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer."""

    prompt: int
    completion: int


@dataclass
class Served:
    """One model in memory. It answers one request after the other; others wait.

    context: in tokens; 0 takes the model's own, at most 4096. threads: 0 leaves that to llama.cpp.
    seed: of sampling.
    """

    folder: Path
    context: int = 0
    threads: int = 0
    seed: int = 0
    lock: Any = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def result(self) -> dict[str, Any]:
        """The study's result.json. Raises UserError where there is no GGUF winner."""
        path = self.folder / "result.json"
        if not path.is_file():
            raise UserError(
                f"{self.folder} holds no result.json: wanted is a folder of outputs/, such as "
                "outputs/latest"
            )
        found: dict[str, Any] = json.loads(path.read_text())
        if not found["winner"] or found["winner"]["artifact"]["path"] != "model.gguf":
            raise UserError(f"{self.folder} has no GGUF winner")
        return found

    @cached_property
    def about(self) -> dict[str, Any]:
        """What answers came from: study, variant, SHA-256, bytes, quantization damage."""
        winner = self.result["winner"]
        numbers = {m["metric"]: m["value"] for m in winner["measurements"]}
        found = {
            "study": self.result["study"],
            "model": self.result["model"],
            "variant": variant_name(Recipe.of(winner["recipe"])),
            "sha256": winner["artifact"]["sha256"],
            "bytes": winner["artifact"]["bytes"],
        }
        return found | {k: numbers[k] for k in ("kld_mean",) if k in numbers}

    @property
    def name(self) -> str:
        """The model's name with its variant."""
        return f"{self.about['model']}:{self.about['variant']}"

    @cached_property
    def llama(self) -> Any:
        """llama.cpp with the model, its bytes checked. Raises UserError where they aren't the
        winner's.
        """
        from llama_cpp import Llama

        path = self.folder / "model.gguf"
        if not path.is_file() or hash_file(path) != self.about["sha256"]:
            raise UserError(f"{path} isn't the winner any more: run the same `doit optimize` again")
        return Llama(
            str(path),
            n_ctx=self.window,
            n_threads=self.threads or None,
            seed=self.seed,
            verbose=False,
        )

    @cached_property
    def window(self) -> int:
        """Context in tokens: the prompt and the answer."""
        return self.context or min(read_chat(self.folder / "model.gguf").context, DEFAULT_CONTEXT)

    @cached_property
    def template(self) -> Any:
        """The model's own chat template, or None."""
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        text = self.llama.metadata.get("tokenizer.chat_template")
        if not text:
            return None
        bos, eos = (self.token_text(t) for t in (self.llama.token_bos(), self.llama.token_eos()))
        return Jinja2ChatFormatter(template=text, eos_token=eos, bos_token=bos)

    def token_text(self, token: int) -> str:
        """A special token as text."""
        return (
            ""
            if token < 0
            else self.llama.detokenize([token], special=True).decode(errors="replace")
        )

    def prompt(self, messages: list[Message]) -> str:
        """Messages as the model was trained to read them; without a template, their texts one after
        the other.
        """
        if self.template is None:
            return "\n\n".join(m["content"] for m in messages)
        return str(self.template(messages=messages).prompt)

    def tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens, with one beginning-of-text token where the model wants one."""
        bos = self.token_text(self.llama.token_bos())
        own = bool(bos) and prompt.startswith(bos)
        return list(self.llama.tokenize(prompt.encode(), add_bos=not own, special=True))

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.llama.tokenize(text.encode(), add_bos=False, special=False))

    def stream(
        self, prompt: str, stop: list[str] | None = None, **options: Any
    ) -> Iterator[tuple[str, str | None]]:
        """Pieces of the answer as (text, why it ended or None). Raises UserError for a prompt that
        doesn't fit.

        options: temperature, top_p, max_tokens, ... of llama-cpp-python's create_completion.
        """
        tokens = self.tokens(prompt)
        if len(tokens) >= self.window:
            raise UserError(
                f"the prompt has {len(tokens)} tokens, and the context {self.window}: shorten it "
                "or raise context"
            )
        with self.lock:
            for part in self.llama.create_completion(
                tokens, stop=self.stops(stop), stream=True, **options
            ):
                choice = part["choices"][0]
                yield choice["text"], choice["finish_reason"]

    def stops(self, more: list[str] | None) -> list[str]:
        """Where an answer ends, beside the end-of-text token."""
        eos = self.token_text(self.llama.token_eos())
        return [*([eos] if eos and self.template else []), *(more or [])]

    def answer(
        self, prompt: str, stop: list[str] | None = None, **options: Any
    ) -> tuple[str, str, Usage]:
        """The whole answer, why it ended ("stop" or "length"), and its tokens."""
        pieces, reason = [], "stop"
        for text, why in self.stream(prompt, stop, **options):
            pieces.append(text)
            reason = why or reason
        whole = "".join(pieces)
        return whole, reason, Usage(len(self.tokens(prompt)), self.count(whole))


async def asynchronous(given: Iterator[Any]) -> AsyncGenerator[Any, None]:
    """The same pieces without blocking the event loop: each is waited for in a thread."""
    while (piece := await asyncio.to_thread(next, given, _END)) is not _END:
        yield piece
