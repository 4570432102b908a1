"""Render a task file's templates and search with its patterns, in a child process with limits.

Nothing that a task file says is carried out in Sintra's own process: a template or a pattern can
run for ever, fill the memory, or try to leave the sandbox (sintra.core.rendering).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sintra.core.errors import UserError
from sintra.core.rendering.worker import SHARED

SECONDS = 2.0  # CPU seconds of an order's rows, and one more for each ROWS_PER_SECOND
ROWS_PER_SECOND = 500
ROWS_AT_ONCE = 5000
CHARACTERS_AT_ONCE = 4 << 20  # of JSON, so that any data fit the child's memory
Kind = Literal["text", "number", "list", "target", "choices"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """A Jinja template of a task file."""

    name: str  # of what it gives
    text: str  # Jinja source
    kind: Kind
    """How its text is read: as it is, digits as a number, a list as a list, both, or a list."""


class TemplateError(UserError):
    """What is wrong with a template or a pattern, in a few words."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row
        """The number of the row that it fails with, from 1; None for all rows."""


def render_rows(templates: Sequence[Template], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each row name -> rendered value. Raises TemplateError."""
    if not templates:
        return [{} for _ in rows]
    order = {"do": "rows", "templates": [(t.name, t.text, t.kind) for t in templates]}
    names = {t.name for t in templates}
    return answers(order, rows, lambda values: isinstance(values, dict) and set(values) == names)


def find_all(pattern: str, texts: Sequence[str], group: int, fallback: str) -> list[str]:
    """Return what lm-eval's filter `regex` extracts from each text. Raises TemplateError."""
    order = {"do": "pattern", "pattern": pattern, "group": group, "fallback": fallback}
    return answers(order, texts, lambda value: isinstance(value, str))


def answers(order: dict[str, Any], rows: Sequence[Any], fits: Callable[[Any], bool]) -> list[Any]:
    """Return the child's answer to each row. Raises TemplateError, where one doesn't fit, too."""
    given: list[Any] = []
    for part in parts_of(rows):
        given += answers_from(order, part, len(given))
        if not all(map(fits, given[-len(part) :])):
            raise TemplateError("its process answers in another notation", len(given))
    return given


def parts_of(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the rows in parts that a child takes at once."""
    start = size = 0
    for number, row in enumerate(rows):
        size += len(json.dumps(row))
        if number > start and (size > CHARACTERS_AT_ONCE or number - start >= ROWS_AT_ONCE):
            yield rows[start:number]
            start, size = number, 0
    if rows:
        yield rows[start:]


def answers_from(order: dict[str, Any], rows: Sequence[Any], before: int) -> list[Any]:
    """Return the child's answer to each of some rows; before: how many rows come before them.

    Raises TemplateError.
    """
    seconds = SECONDS + len(rows) // ROWS_PER_SECOND
    replies = SHARED.ask(order, rows, seconds)
    given = []
    for number, reply in enumerate(replies.rows, before + 1):
        if "answer" not in reply:
            (reason,) = reply.values()
            raise TemplateError(str(reason), number)
        given.append(reply["answer"])
    if len(given) < len(rows):
        lost = f"takes more than {seconds:g} s of CPU time" if replies.late else replies.lost
        raise TemplateError(lost or "its process answers too little", before + len(given) + 1)
    return given
