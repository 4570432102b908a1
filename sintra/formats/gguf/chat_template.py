"""Read what a chat runtime needs from a GGUF: template, stop tokens and context length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sintra.core.text import printable_line
from sintra.formats.chat.renderer import Conversation, Message, TemplateSource, render
from sintra.formats.chat.turns import (
    NO_TURNS,
    ROLES,
    Split,
    TemplateReading,
    Turns,
    conversation,
    read_template,
    split_around,
    split_template,
)
from sintra.formats.gguf.header import ArrayInfo, Header, read_gguf_header, read_texts
from sintra.formats.runtime.vocabulary import Vocabulary, read_vocabulary

__all__ = ["NO_TURNS", "ROLES", "ChatFormat", "ChatTemplate", "Message", "Split", "split_template"]

TEMPLATE_KEY = "tokenizer.chat_template"
MARKER = re.compile(r".*[<>\[\]#|].*", re.S)  # what no answer has by chance at its end
LONGEST_REASON = 250  # characters
LEFT_OUT_KEY = "sintra.chat_template_left_out"  # why a template isn't in the file, in a line


@dataclass(frozen=True)
class ChatFormat:
    """How a model's conversations are written as text."""

    turns: Turns | None
    """None where there is no template, or it is more than a sequence of turns."""
    opening: str  # the text after which the assistant's answer starts
    preamble: str  # the text before a conversation whose first message is of no system
    stop: tuple[str, ...]  # texts that end an answer, most of them of tokens
    context: int  # context length that the model was trained for, tokens
    lead: str = ""  # begin of text that turns start with; the runtime puts it before the first
    reason: str = ""  # why there are no turns, in a line; "" where there are
    dated: bool = False  # whether the template writes the day's date somewhere

    def text(self, messages: Sequence[Message]) -> str:
        """Return a conversation with an opened answer, as a runtime takes it: without the begin of
        text that this puts first. There must be turns.
        """
        assert self.turns is not None
        pieces = [] if messages[0]["role"] == "system" else [self.preamble]
        for number, message in enumerate(messages):
            before, after = self.turns[message["role"]]
            if number == 0 and self.opens_first(message["role"]):
                before = before.removeprefix(self.lead)
            pieces.append(before + message["content"] + after)
        return "".join(pieces) + self.opening

    def opens_first(self, role: str) -> bool:
        """Return whether a conversation's first turn, of this role, has nothing before it but what
        the runtime puts there.
        """
        return role == "system" or not self.preamble


@dataclass(frozen=True)
class ChatTemplate(TemplateSource):
    """A model's chat template in Jinja, and the special tokens that it may name."""

    def render(self, messages: list[Message], opening: bool) -> str:
        """Return a conversation as transformers renders it, in a process of its own.

        It ends with the opening of an answer, or (opening=False) with its last message left open.
        Raises TemplateFailed where the template does not take such a conversation.
        """
        return render(self, Conversation(messages, opening, left_open=not opening))

    @cached_property
    def failure(self) -> str:
        """Why the template doesn't render a user's question, in a line; "" where it does."""
        try:
            split_around(self.render(conversation("user"), opening=True), 0)
        except ValueError as error:
            return str(error)
        return ""

    def around_question(self) -> tuple[str, str] | None:
        """Return the text before a first user's words, and from their end to the opened answer.

        None where the template fails, or drops the words.
        """
        try:
            return split_around(self.render(conversation("user"), opening=True), 0)
        except ValueError:
            return None


def read_chat_template(path: Path) -> ChatTemplate | None:
    """Read a GGUF's chat template; None where it has none."""
    header = read_gguf_header(path)
    text = header.text(TEMPLATE_KEY)
    if not text:
        return None
    ids = {n: header.metadata.get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos")}
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    texts: dict[int, str] = {}
    if isinstance(tokens, ArrayInfo):
        texts = read_texts(path, tokens, {n for n in ids.values() if isinstance(n, int)})
    bos, eos = (texts.get(n, "") if isinstance(n, int) else "" for n in ids.values())
    return ChatTemplate(text, bos, eos)


def no_template_reason(header: Header) -> str:
    """Return why a GGUF has no chat template, in a few words; "" where it has one."""
    if header.text(TEMPLATE_KEY):
        return ""
    if left_out := header.text(LEFT_OUT_KEY):
        return printable_line(left_out, LONGEST_REASON)
    prefix = f"{TEMPLATE_KEY}."
    names = sorted(k.removeprefix(prefix) for k in header.metadata if k.startswith(prefix))
    return f"none of them is the default ({', '.join(names)})" if names else "there is none"


def read_chat_format(path: Path) -> ChatFormat:
    """Read how conversations are written from a GGUF's own metadata and vocabulary.

    Who puts begin of text first is asked of llama.cpp, which reads the vocabulary. Raises
    Infeasible where it can't.
    """
    header, vocabulary = read_gguf_header(path), read_vocabulary(path)
    length = header.metadata.get(f"{header.text('general.architecture')}.context_length")
    context = length if isinstance(length, int) else 2048
    reading = TemplateReading(reason=no_template_reason(header))
    if template := header.text(TEMPLATE_KEY):
        source = TemplateSource(template, vocabulary.bos, vocabulary.eos)
        reading = read_template(source, vocabulary.adds_bos)
    stop = stop_texts(vocabulary, reading)
    dated = "strftime_now" in header.text(TEMPLATE_KEY)
    return ChatFormat(*reading.split, stop, context, reading.lead, reading.reason, dated)


def stop_texts(vocabulary: Vocabulary, reading: TemplateReading) -> tuple[str, ...]:
    """Return the texts that end an answer: of the tokens that do, and what a template writes there
    that is no token.
    """
    written = reading.ending.strip().split("\n")[0].strip()
    of_tokens = [vocabulary.texts[token] for token in vocabulary.ends]
    covered = any(written.startswith(text) for text in of_tokens)
    own = [written] if MARKER.match(written) and not covered else []
    return tuple(dict.fromkeys([*of_tokens, *own]))
