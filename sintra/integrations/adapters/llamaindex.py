"""LlamaIndex: `SintraLLM(folder="outputs/latest")` is an LLM (extra `llamaindex`).

The extra is llama-index-core alone. It follows
https://developers.llamaindex.ai/python/framework/module_guides/models/llms/usage_custom/: complete,
stream_complete and metadata, from which chat, streaming chat and their async forms follow. Messages
go through the model's own chat template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.integrations.adapters.answering import AnsweringModel, Options, iterate_in_thread

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
    )
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.custom import CustomLLM
except ImportError as error:
    raise UserError(
        "the LlamaIndex adapter needs llama-index-core: pip install 'sintra[llamaindex]'"
    ) from error


class SintraLLM(CustomLLM):
    """The winner of a study, by llama.cpp in this process."""

    folder: str = Field(default="outputs/latest", description="A folder of outputs/")
    context: int = Field(default=0, description="Context in tokens; 0: the study's (goal.context)")
    threads: int = Field(default=0, description="Threads; 0: llama.cpp's choice")
    seed: int = Field(default=0, description="Seed of sampling")
    temperature: float = Field(default=0.7, description="Temperature of sampling; 0 is greedy")
    max_tokens: int = Field(default=256, description="The longest answer, in tokens")
    _engine: AnsweringModel = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        folder = Path(self.folder).expanduser()
        self._engine = AnsweringModel(folder, self.context, self.threads, self.seed)
        # lambdas: the repr of a bound method holds that of its owner
        if "messages_to_prompt" not in fields:
            self.messages_to_prompt = lambda messages: self.format_messages(messages)
        if "completion_to_prompt" not in fields:
            self.completion_to_prompt = lambda prompt: self.format_instruction(prompt)

    @classmethod
    def class_name(cls) -> str:
        """Name the class for serialization."""
        return "SintraLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Return the context and the longest answer in tokens, and the model's name."""
        return LLMMetadata(
            context_window=self._engine.context_size,
            num_output=self.max_tokens,
            model_name=self._engine.name,
            is_chat_model=self._engine.template is not None,
        )

    def format_messages(self, messages: Sequence[ChatMessage]) -> str:
        """Write messages by the model's own template."""
        return self._engine.format_prompt(
            [{"role": str(m.role.value), "content": m.content or ""} for m in messages]
        )

    def format_instruction(self, prompt: str) -> str:
        """Write a single prompt as a user's message."""
        return self._engine.format_prompt([{"role": "user", "content": prompt}])

    def completion_options(self, arguments: Options) -> Options:
        """Return what goes to llama.cpp, a call's own arguments first."""
        defaults = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        return defaults | arguments

    def format_prompt(self, prompt: str, formatted: bool) -> str:
        """Return the prompt as the model reads it.

        formatted: whether it is in that form already.
        """
        if formatted or self.completion_to_prompt is None:
            return prompt
        return self.completion_to_prompt(prompt)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the whole answer; `raw` has its end, its tokens and the model's digest."""
        stop = kwargs.pop("stop", None)
        text, reason, usage = self._engine.answer(
            self.format_prompt(prompt, formatted), stop, **self.completion_options(kwargs)
        )
        counts = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
        raw = {**self._engine.provenance, "finish_reason": reason, **counts}
        return CompletionResponse(text=text, raw=raw, additional_kwargs=counts)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Yield the answer piece by piece, each response with all of it so far."""
        stop = kwargs.pop("stop", None)

        def pieces() -> CompletionResponseGen:
            text = ""
            for delta, _ in self._engine.stream_answer(
                self.format_prompt(prompt, formatted), stop, **self.completion_options(kwargs)
            ):
                text += delta
                yield CompletionResponse(text=text, delta=delta, raw=self._engine.provenance)

        return pieces()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Return the whole answer from a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.complete, prompt, formatted, **kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Yield the answer piece by piece; a thread waits for each."""
        return iterate_in_thread(self.stream_complete(prompt, formatted, **kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation from a thread."""
        return await asyncio.to_thread(self.chat, messages, **kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Yield the answer to a conversation piece by piece; a thread waits for each."""
        return iterate_in_thread(self.stream_chat(messages, **kwargs))
