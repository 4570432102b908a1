"""What the parts of the child process share: how an order is refused, and in what words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LONGEST_REASON = 160  # characters
Answer = Callable[[Any], Any]  # a row -> what is answered, JSON; raises Refused


class Refused(Exception):
    """What is wrong with a template, a pattern or a row, in a few words."""


def short(error: BaseException) -> str:
    """Return an exception's words in one line; its kind where it has none."""
    return own_words(error) or type(error).__name__


def with_kind(error: BaseException) -> str:
    """Return an exception's kind and words in one line."""
    words = own_words(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def own_words(error: BaseException) -> str:
    """Return an exception's words in one line, cut off; "" for none."""
    return " ".join(str(error).split())[:LONGEST_REASON]
