"""Texts of others made fit for a terminal, a page or a file: printable, and not too long."""

from __future__ import annotations

LONGEST_LINE = 4000  # characters
JOINERS = "\u200c\u200d"  # of scripts and of emoji: unseen, and no terminal obeys them
KEPT = "\n\t" + JOINERS  # what texts of several lines may have
REPLACEMENT = "?"


def printable_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Return a text in one printable line.

    Line ends and tabs become blanks, what a terminal would obey or a reader can't see becomes "?",
    and what is beyond the longest is cut off.
    """
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    return text if text.isprintable() else _replaced(text.translate(BLANKS), JOINERS)


def printable_text(text: str) -> str:
    """Return a text with its lines, in which nothing is left that a terminal would obey."""
    return text if text.isprintable() else _replaced(text, KEPT)


def is_printable_line(value: object, longest: int) -> bool:
    """Return whether a value is a text in one printable line that isn't too long."""
    return isinstance(value, str) and len(value) <= longest and value.isprintable()


BLANKS = str.maketrans(dict.fromkeys("\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def _replaced(text: str, kept: str) -> str:
    return "".join(c if c.isprintable() or c in kept else REPLACEMENT for c in text)
