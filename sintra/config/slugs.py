"""Check names and texts that come from options: what becomes a path, what is shown to people."""

from __future__ import annotations

import re

from sintra.core.errors import UserError

LONGEST_NAME = 100  # characters: three names and a digest fit a file name's 255 bytes
LONGEST_TITLE = 120  # characters
LONGEST_TEXT = 4096  # characters: the longest path that Linux takes
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def slug(text: str) -> str:
    """Return a text as a name: letters, digits, dots and dashes only."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")
    return plain[:LONGEST_NAME].rstrip("-.") or "model"


def is_name(text: str) -> bool:
    """Return whether a text can be a name in paths: one part, never hidden, never an option."""
    return len(text) <= LONGEST_NAME and NAME.fullmatch(text) is not None


def check_name(where: str, text: str) -> None:
    """Raise UserError for a text that is no name. where: names the value, for the message."""
    if not is_name(text):
        raise UserError(
            f"{where} isn't a name: it becomes part of paths, so it has at most {LONGEST_NAME} "
            f"letters, digits, '_', '-' and '.', such as {slug(text)}"
        )


def check_line(where: str, text: str, longest: int = LONGEST_TEXT) -> None:
    """Raise UserError for a text that isn't one printable line.

    where: names the value, for the message; longest: characters that it may have.
    """
    if not text.isprintable():
        raise UserError(f"{where} has characters that can't be printed: write a single plain line")
    if len(text) > longest:
        raise UserError(f"{where} has {len(text)} characters: use {longest} at most")
