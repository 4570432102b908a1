"""LangChain: `ChatSintra(folder="outputs/latest")` is a chat model (extra `langchain`, which is
langchain-core alone).

langchain-community's ChatLlamaCpp isn't maintained any more; this follows
https://docs.langchain.com/oss/python/integrations/chat: invoke, stream, batch, their async forms,
usage and metadata.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.integrations.adapters.answering import Message, Served, asynchronous

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LangSmithParams
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
except ImportError as error:
    raise UserError(
        "the LangChain adapter needs langchain-core: pip install 'sintra[langchain]'"
    ) from error

ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class ChatSintra(BaseChatModel):
    """The winner of a study, by llama.cpp in this process.

    folder: of outputs/; context: tokens, 0 for the model's own (at most 4096); threads: 0 for
    llama.cpp's choice.
    """

    folder: str = "outputs/latest"
    context: int = 0
    threads: int = 0
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 256
    stop: list[str] | None = None

    @cached_property
    def served(self) -> Served:
        """The model; loaded when it is first asked."""
        return Served(Path(self.folder).expanduser(), self.context, self.threads, self.seed)

    @property
    def _llm_type(self) -> str:
        return "sintra"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        return own | self.served.about

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        found = LangSmithParams(
            ls_provider="sintra",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or self.served.name,
        )
        found["ls_temperature"] = kwargs.get("temperature", self.temperature)
        found["ls_max_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        if stops := stop or self.stop:
            found["ls_stop"] = stops
        return found

    def get_num_tokens(self, text: str) -> int:
        """How many tokens a text has, by the model's own tokenizer."""
        return self.served.count(text)

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """What goes to llama.cpp. Raises UserError for an argument that it doesn't have."""
        own = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        if unknown := sorted(set(given) - set(own)):
            raise UserError(
                f"ChatSintra has no {unknown[0]!r}: known are {', '.join(own)} and stop"
            )
        return own | given

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        prompt = self.served.prompt(plain(messages))
        text, reason, used = self.served.answer(prompt, stop or self.stop, **self.options(kwargs))
        usage = UsageMetadata(
            input_tokens=used.prompt,
            output_tokens=used.completion,
            total_tokens=used.prompt + used.completion,
        )
        message = AIMessage(
            content=text, response_metadata=self.metadata_of(reason), usage_metadata=usage
        )
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info={"finish_reason": reason})]
        )

    def metadata_of(self, reason: str) -> dict[str, Any]:
        """What an answer says of where it came from, the file's digest included."""
        return {
            "model_name": self.served.name,
            "model_provider": "sintra",
            "finish_reason": reason,
            **self.served.about,
        }

    def chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]
    ) -> Iterator[ChatGenerationChunk]:
        """The answer piece by piece; the last chunk has usage and metadata."""
        prompt, whole, reason = self.served.prompt(plain(messages)), "", "stop"
        for text, why in self.served.stream(prompt, stop or self.stop, **self.options(given)):
            whole, reason = whole + text, why or reason
            if text:
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        read, written = len(self.served.tokens(prompt)), self.served.count(whole)
        usage = UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)
        last = AIMessageChunk(
            content="",
            response_metadata=self.metadata_of(reason),
            usage_metadata=usage,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last, generation_info={"finish_reason": reason})

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.chunks(messages, stop, kwargs):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in asynchronous(self.chunks(messages, stop, kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def plain(messages: list[BaseMessage]) -> list[Message]:
    """Messages as role and text. Raises UserError for what isn't text."""
    found = []
    for message in messages:
        if message.type not in ROLES:
            raise UserError(
                f"a {message.type} message can't be put to this model: it takes system, human and "
                "ai"
            )
        if not isinstance(message.content, str) and any(
            isinstance(p, dict) and p.get("type") != "text" for p in message.content
        ):
            raise UserError("this model reads text only")
        found.append({"role": ROLES[message.type], "content": str(message.text)})
    return found
