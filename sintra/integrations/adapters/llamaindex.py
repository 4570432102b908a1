"""LlamaIndex: `SintraLLM(folder="outputs/latest")` is an LLM (extra `llamaindex`, which is
llama-index-core alone).

As https://developers.llamaindex.ai/python/framework/module_guides/models/llms/usage_custom/ has it:
complete, stream_complete and metadata, from which chat, streaming chat and their async forms
follow; messages go through the model's own chat template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.integrations.adapters.answering import Served, asynchronous

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
    context: int = Field(
        default=0, description="Context in tokens; 0: the model's own, at most 4096"
    )
    threads: int = Field(default=0, description="Threads; 0: llama.cpp's choice")
    seed: int = Field(default=0, description="Seed of sampling")
    temperature: float = Field(default=0.7, description="Temperature of sampling; 0 is greedy")
    max_tokens: int = Field(default=256, description="The longest answer, in tokens")
    _served: Served = PrivateAttr()

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._served = Served(Path(self.folder).expanduser(), self.context, self.threads, self.seed)
        if "messages_to_prompt" not in given:
            self.messages_to_prompt = lambda messages: self.conversation(
                messages
            )  # a bound method's repr holds its owner's
        if "completion_to_prompt" not in given:
            self.completion_to_prompt = lambda prompt: self.instruction(prompt)

    @classmethod
    def class_name(cls) -> str:
        """For serialisation."""
        return "SintraLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Context and answer in tokens, and the model's name."""
        return LLMMetadata(
            context_window=self._served.window,
            num_output=self.max_tokens,
            model_name=self._served.name,
            is_chat_model=self._served.template is not None,
        )

    def conversation(self, messages: Sequence[ChatMessage]) -> str:
        """Messages by the model's own template."""
        return self._served.prompt(
            [{"role": str(m.role.value), "content": m.content or ""} for m in messages]
        )

    def instruction(self, prompt: str) -> str:
        """A single prompt as a user's message."""
        return self._served.prompt([{"role": "user", "content": prompt}])

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """What goes to llama.cpp."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        } | given

    def asked(self, prompt: str, formatted: bool) -> str:
        """The prompt as the model reads it."""
        return (
            prompt
            if formatted or self.completion_to_prompt is None
            else self.completion_to_prompt(prompt)
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The whole answer; `raw` has its end, its tokens and the model's digest."""
        stop = kwargs.pop("stop", None)
        text, reason, used = self._served.answer(
            self.asked(prompt, formatted), stop, **self.options(kwargs)
        )
        raw = self._served.about | {"finish_reason": reason}
        counts = {"prompt_tokens": used.prompt, "completion_tokens": used.completion}
        return CompletionResponse(text=text, raw=raw | counts, additional_kwargs=counts)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """The answer piece by piece, each response with all of it so far."""
        stop = kwargs.pop("stop", None)

        def pieces() -> CompletionResponseGen:
            text = ""
            for delta, _ in self._served.stream(
                self.asked(prompt, formatted), stop, **self.options(kwargs)
            ):
                text += delta
                yield CompletionResponse(text=text, delta=delta, raw=self._served.about)

        return pieces()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """The same in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.complete, prompt, formatted, **kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """The same, each piece waited for in a thread."""
        return asynchronous(self.stream_complete(prompt, formatted, **kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The same in a thread."""
        return await asyncio.to_thread(self.chat, messages, **kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """The same, each piece waited for in a thread."""
        return asynchronous(self.stream_chat(messages, **kwargs))
