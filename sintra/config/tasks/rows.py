"""Check the rows of a user's task: every column there, and of the kinds that lm-eval can take."""

from __future__ import annotations

import importlib.util
from typing import Any

from sintra.core.errors import UserError, nearest

TaskRow = dict[str, Any]  # a row of a task's data: column -> value


def check_columns(needed: set[str], rows: list[TaskRow], name: str) -> None:
    """Raise UserError with the row that lacks a column which a task names, or has null there.

    name: of the data file.
    """
    for number, row in enumerate(rows, 1):
        if missing := sorted(needed - set(row)):
            raise UserError(
                f"{name}, row {number} has no {missing[0]!r}: {nearest(missing[0], row)}"
            )
    check_written(needed, rows, name)


def check_written(columns: set[str], rows: list[TaskRow], name: str) -> None:
    """Raise UserError with the row that has null where a task writes a column's value."""
    for number, row in enumerate(rows, 1):
        if empty := sorted(column for column in columns if row.get(column, "") is None):
            raise UserError(f"{name}, row {number}: {empty[0]!r} is null")


def check_choices(choices: str, answer: str | int, rows: list[TaskRow], name: str) -> None:
    """Raise UserError with the row whose choices are none, or whose answer isn't one of them.

    choices, answer: the columns, or the number of the right choice; a template isn't looked at.
    """
    for number, row in enumerate(rows, 1):
        listed = row.get(choices)
        if choices not in row:
            continue
        if not isinstance(listed, list) or len(listed) < 2:
            raise UserError(
                f"{name}, row {number}: {choices!r} is not a list of two choices or more: "
                f"{str(listed)[:60]!r}"
            )
        right = row.get(answer) if isinstance(answer, str) else answer
        if right is not None and not _is_among(right, listed):
            raise UserError(
                f"{name}, row {number}: the answer is {str(right)[:60]!r}; it must be one of the "
                f"{len(listed)} choices, or its number from 0 to {len(listed) - 1}"
            )


def _is_among(answer: object, listed: list[Any]) -> bool:
    """Return whether an answer names choices: an index or a text, or a list of these."""
    if isinstance(answer, list):
        return bool(answer) and all(_is_among(a, listed) for a in answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        return 0 <= answer < len(listed)
    return isinstance(answer, str) and answer in listed


def check_kinds(rows: list[TaskRow], name: str) -> None:
    """Raise UserError with the row from which on a column isn't of one kind any more.

    lm-eval's data are Arrow columns: texts, or whole numbers of 64 bits, or lists of one of these.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return  # without it there is no lm-eval either, which is said elsewhere
    for column in rows[0]:
        values = [row.get(column) for row in rows]
        if fault := _kind_fault(values):
            first = _first_fault(values)
            raise UserError(
                f"{name}, row {first}: {column!r} is {str(values[first - 1])[:60]!r}, which can't "
                f"stand in one column with the rows before ({fault}); one kind per column, large "
                "numbers as text"
            )


def _kind_fault(values: list[Any]) -> str:
    """Return why values are no Arrow column, in a few words; "" where they are."""
    import pyarrow  # comes with lm-eval; not on the no-op path

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError) as error:
        return " ".join(str(error).split())[:80]
    return ""


def _first_fault(values: list[Any]) -> int:
    """Return the number, from 1, of the first value that spoils the column."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _kind_fault(values[:middle]) else (middle, high)
    return high
