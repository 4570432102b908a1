"""A winner of outputs/ that answers, by llama.cpp with its own chat template and stop tokens."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from sintra.core.errors import UserError
from sintra.formats.chat.renderer import Message, TemplateFailed
from sintra.formats.gguf.chat_template import (
    ChatFormat,
    ChatTemplate,
    read_chat_format,
    read_chat_template,
)
from sintra.formats.gguf.header import read_gguf_header, read_numbers
from sintra.formats.runtime.llama_cpp import STOP_IDS_KEY
from sintra.store.files import hash_file
from sintra.study.result_upgrade import parse_result

Piece = TypeVar("Piece")
Options = dict[str, Any]  # keywords of llama-cpp-python's create_completion
_END = object()


class ChatTurn(TypedDict):
    """A message of a conversation, as chat templates read it."""

    role: str  # system, user or assistant
    content: str


class Provenance(TypedDict):
    """Where an answer came from."""

    study: str
    model: str  # the original's name
    variant: str  # name of the winner's recipe
    sha256: str  # of the winner's file, hex
    bytes: int  # size of the winner's file
    kld_mean: NotRequired[float]  # mean KL divergence to the 16-bit model, nats per token


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer."""

    prompt: int  # tokens of the prompt
    completion: int  # tokens of the answer


@dataclass
class AnsweringModel:
    """One model in memory. It answers one request after the other; others wait."""

    folder: Path  # of the study, in outputs/
    context: int = 0  # tokens; 0 takes the study's (goal.context)
    threads: int = 0  # 0 leaves that to llama.cpp
    seed: int = 0  # of sampling
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def result(self) -> dict[str, Any]:
        """Read the study's result.json. Raises UserError where there is no GGUF winner."""
        path = self.folder / "result.json"
        if not path.is_file():
            raise UserError(
                f"{self.folder} holds no result.json: expected a folder of outputs/, such as "
                "outputs/latest"
            )
        result: dict[str, Any] = dict(parse_result(path.read_text()))
        if not result["winner"] or result["winner"]["artifact"]["path"] != "model.gguf":
            raise UserError(f"{self.folder} has no GGUF winner")
        return result

    @cached_property
    def provenance(self) -> Provenance:
        """Return where answers come from. Raises UserError where there is no GGUF winner."""
        winner = self.result["winner"]
        provenance: Provenance = {
            "study": self.result["study"],
            "model": self.result["model"],
            "variant": winner["name"],
            "sha256": winner["artifact"]["sha256"],
            "bytes": winner["artifact"]["bytes"],
        }
        for measurement in winner["measurements"]:
            if measurement["metric"] == "kld_mean":
                provenance["kld_mean"] = measurement["value"]
        return provenance

    @property
    def name(self) -> str:
        """Return the model's name with its variant."""
        return f"{self.provenance['model']}:{self.provenance['variant']}"

    @cached_property
    def llama(self) -> Any:
        """Load the model into llama.cpp. Raises UserError where its bytes aren't the winner's."""
        from llama_cpp import Llama  # only an answer needs it

        path = self.folder / "model.gguf"
        if not path.is_file() or hash_file(path) != self.provenance["sha256"]:
            raise UserError(f"{path} isn't the winner any more: run the same `doit optimize` again")
        return Llama(
            str(path),
            n_ctx=self.context_size,
            n_threads=self.threads or None,
            seed=self.seed,
            verbose=False,
        )

    @cached_property
    def chat(self) -> ChatFormat:
        """Read how the model's conversations are written, and what ends an answer."""
        return read_chat_format(self.folder / "model.gguf")

    @cached_property
    def context_size(self) -> int:
        """Return the context, tokens: room for the prompt and the answer."""
        return self.context or int(self.result["context"])

    @cached_property
    def template(self) -> ChatTemplate | None:
        """Return the model's own chat template; None, with a warning, where none works."""
        template = read_chat_template(self.folder / "model.gguf")
        if template and not template.failure:
            return template
        reason = template.failure if template else self.chat.reason
        warnings.warn(f"{self.name}: no chat template ({reason}): plain text", stacklevel=2)
        return None

    def token_text(self, token: int) -> str:
        """Return a special token as text; "" for the number of a token that isn't there."""
        if token < 0:
            return ""
        text: bytes = self.llama.detokenize([token], special=True)
        return text.decode(errors="replace")

    def format_prompt(self, messages: list[ChatTurn]) -> str:
        """Write messages as the model was trained to read them.

        Without a template that is their texts one after the other. Raises UserError for a
        conversation that the template doesn't take.
        """
        if self.template is None:
            return "\n\n".join(message["content"] for message in messages)
        turns: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
        try:
            return self.template.render(turns, opening=True)
        except TemplateFailed as error:
            raise UserError(f"the chat template doesn't take this conversation: {error}") from None

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Tokenize a prompt, with one beginning-of-text token where the model wants one."""
        bos = self.token_text(self.llama.token_bos())
        has_bos = bool(bos) and prompt.startswith(bos)
        return list(self.llama.tokenize(prompt.encode(), add_bos=not has_bos, special=True))

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text."""
        return len(self.llama.tokenize(text.encode(), add_bos=False, special=False))

    def stream_answer(
        self, prompt: str, stop: list[str] | None = None, **options: Any
    ) -> Iterator[tuple[str, str | None]]:
        """Yield pieces of the answer as (text, why it ended or None).

        options: temperature, top_p, max_tokens, ... of llama-cpp-python's create_completion. Raises
        UserError for a prompt that doesn't fit.
        """
        tokens = self.prompt_tokens(prompt)
        if len(tokens) >= self.context_size:
            raise UserError(
                f"the prompt has {len(tokens)} tokens, and the context {self.context_size}: "
                "shorten it or raise context"
            )
        with self.lock:
            parts = self.llama.create_completion(
                tokens,
                stop=self.stop_texts(stop),
                stopping_criteria=self.stopping_criteria(len(tokens)),
                stream=True,
                **options,
            )
            for part in parts:
                choice = part["choices"][0]
                yield choice["text"], choice["finish_reason"]

    def stop_texts(self, extra: list[str] | None) -> list[str]:
        """Return the texts that end an answer: those of the model's turns, and the caller's."""
        return [*(self.chat.stop if self.template else ()), *(extra or [])]

    def stopping_criteria(self, prompt: int) -> Any:
        """Return what ends an answer at tokens that llama.cpp doesn't know as ends; None where it
        knows them all. prompt: its tokens.
        """
        from llama_cpp import StoppingCriteriaList  # only an answer needs it

        path = self.folder / "model.gguf"
        ends = read_numbers(path, read_gguf_header(path), STOP_IDS_KEY)
        if not ends:
            return None
        return StoppingCriteriaList([lambda ids, _: len(ids) > prompt and int(ids[-1]) in ends])

    def answer(
        self, prompt: str, stop: list[str] | None = None, **options: Any
    ) -> tuple[str, str, Usage]:
        """Return the whole answer, why it ended ("stop" or "length"), and its tokens.

        Raises UserError for a prompt that doesn't fit.
        """
        pieces, reason = [], "stop"
        for text, end in self.stream_answer(prompt, stop, **options):
            pieces.append(text)
            reason = end or reason
        answer = "".join(pieces)
        return answer, reason, Usage(len(self.prompt_tokens(prompt)), self.count_tokens(answer))


async def iterate_in_thread(pieces: Iterator[Piece]) -> AsyncGenerator[Piece, None]:
    """Yield an iterator's pieces without blocking the event loop: a thread waits for each."""
    while (piece := await asyncio.to_thread(next, pieces, _END)) is not _END:
        yield piece  # type: ignore[misc]
