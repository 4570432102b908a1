"""Have conversations written out by a chat template, in the jailed child process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sintra.core.rendering.jailed import Reply
from sintra.core.rendering.worker import SHARED
from sintra.core.text import printable_line

CPU_S = 3.0  # processor time of a template with a few conversations, seconds
LONGEST_REASON = 200  # characters
Message = dict[str, str]  # {"role", "content"}


class TemplateFailed(ValueError):
    """A template that doesn't render a conversation: why, in one line."""


class TooSlow(TemplateFailed):
    """A template that doesn't end."""


@dataclass(frozen=True)
class TemplateSource:
    """A template, and the special tokens that it may name."""

    text: str  # the Jinja source
    bos: str  # text of the begin-of-text token; "" where there is none
    eos: str  # text of the end-of-text token; "" where there is none


@dataclass(frozen=True)
class Conversation:
    """Messages, and how their text ends."""

    messages: Sequence[dict[str, Any]]
    opening: bool = False  # whether the answer is opened; else the last message ends the text
    left_open: bool = False  # whether the last message's end is left out, so that it can go on


def render(source: TemplateSource, conversation: Conversation) -> str:
    """Return a conversation as transformers renders it. Raises TemplateFailed."""
    text = render_all(source, [conversation])[0]
    if isinstance(text, TemplateFailed):
        raise text
    return text


def render_all(
    source: TemplateSource, conversations: Sequence[Conversation]
) -> list[str | TemplateFailed]:
    """Return each conversation as text, or why that fails.

    Raises TemplateFailed for a template that can't be compiled, ends its process or doesn't end.
    """
    order = {"do": "chat", "template": source.text, "bos": source.bos, "eos": source.eos}
    replies = SHARED.ask(order, [vars(c) for c in conversations], CPU_S)
    if replies.late:
        raise TooSlow(f"it takes more than {CPU_S:g} s for a few words")
    if replies.lost:
        raise TemplateFailed(printable_line(replies.lost, LONGEST_REASON))
    if replies.rows and "unfit" in replies.rows[0]:
        raise failure(replies.rows[0]["unfit"])
    if len(replies.rows) != len(conversations):
        raise TemplateFailed("its process answers something else")
    return [text_or_failure(reply) for reply in replies.rows]


def text_or_failure(reply: Reply) -> str | TemplateFailed:
    """Return what came of a conversation."""
    if "refused" in reply:
        return failure(reply["refused"])
    return str(reply["answer"])


def failure(words: str) -> TemplateFailed:
    """Return a reason of the template's as an error."""
    return TemplateFailed(printable_line(words, LONGEST_REASON))
