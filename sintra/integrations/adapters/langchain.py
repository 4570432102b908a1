"""LangChain: `ChatSintra(folder="outputs/latest")` is a chat model (extra `langchain`).

The extra is langchain-core alone. langchain-community's ChatLlamaCpp isn't maintained any more;
this follows https://docs.langchain.com/oss/python/integrations/chat: invoke, stream, batch, their
async forms, usage and metadata.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.integrations.adapters.answering import (
    AnsweringModel,
    ChatTurn,
    Options,
    Usage,
    iterate_in_thread,
)

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

ROLES = {"human": "user", "ai": "assistant", "system": "system"}  # LangChain -> chat templates


class ChatSintra(BaseChatModel):
    """The winner of a study, by llama.cpp in this process."""

    folder: str = "outputs/latest"  # a folder of outputs/
    context: int = 0  # tokens; 0 for the study's (goal.context)
    threads: int = 0  # 0 for llama.cpp's choice
    seed: int = 0  # of sampling
    temperature: float = 0.7  # of sampling; 0 is greedy
    top_p: float = 0.95  # share of probability that is sampled from, 0 to 1
    max_tokens: int = 256  # longest answer, tokens
    stop: list[str] | None = None  # texts that end an answer

    @cached_property
    def engine(self) -> AnsweringModel:
        """Return the model, which is loaded at the first question."""
        return AnsweringModel(Path(self.folder).expanduser(), self.context, self.threads, self.seed)

    @property
    def _llm_type(self) -> str:
        return "sintra"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**self._sampling, **self.engine.provenance}

    @property
    def _sampling(self) -> Options:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="sintra",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or self.engine.name,
        )
        params["ls_temperature"] = kwargs.get("temperature", self.temperature)
        params["ls_max_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        if stops := stop or self.stop:
            params["ls_stop"] = stops
        return params

    def get_num_tokens(self, text: str) -> int:
        """Count the tokens of a text by the model's own tokenizer."""
        return self.engine.count_tokens(text)

    def completion_options(self, arguments: Options) -> Options:
        """Return what goes to llama.cpp, a call's own arguments first.

        Raises UserError for an argument that llama.cpp doesn't have.
        """
        defaults = self._sampling
        if unknown := sorted(set(arguments) - set(defaults)):
            raise UserError(
                f"ChatSintra has no {unknown[0]!r}: known are {', '.join(defaults)} and stop"
            )
        return defaults | arguments

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        prompt = self.engine.format_prompt(chat_turns(messages))
        options = self.completion_options(kwargs)
        text, reason, usage = self.engine.answer(prompt, stop or self.stop, **options)
        message = AIMessage(
            content=text,
            response_metadata=self.response_metadata(reason),
            usage_metadata=usage_metadata(usage),
        )
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info={"finish_reason": reason})]
        )

    def response_metadata(self, reason: str) -> dict[str, Any]:
        """Return where an answer came from, the file's digest included, and why it ended."""
        return {
            "model_name": self.engine.name,
            "model_provider": "sintra",
            "finish_reason": reason,
            **self.engine.provenance,
        }

    def answer_chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, arguments: Options
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the answer piece by piece; the last chunk has usage and metadata."""
        prompt, answer, reason = self.engine.format_prompt(chat_turns(messages)), "", "stop"
        options = self.completion_options(arguments)
        for text, end in self.engine.stream_answer(prompt, stop or self.stop, **options):
            answer, reason = answer + text, end or reason
            if text:
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
        usage = Usage(len(self.engine.prompt_tokens(prompt)), self.engine.count_tokens(answer))
        last = AIMessageChunk(
            content="",
            response_metadata=self.response_metadata(reason),
            usage_metadata=usage_metadata(usage),
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
        for chunk in self.answer_chunks(messages, stop, kwargs):
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
        async for chunk in iterate_in_thread(self.answer_chunks(messages, stop, kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Return the tokens of an answer as LangChain counts them."""
    return UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
    )


def chat_turns(messages: list[BaseMessage]) -> list[ChatTurn]:
    """Return messages as role and text. Raises UserError for what isn't text."""
    turns: list[ChatTurn] = []
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
        turns.append({"role": ROLES[message.type], "content": str(message.text)})
    return turns
