"""Read JSON Lines (https://jsonlines.org): UTF-8, an object per line, lines that end at \\n."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from sintra.core.errors import UserError

GZIP, UTF16 = b"\x1f\x8b", (b"\xff\xfe", b"\xfe\xff")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text, which end at \\n or \\r\\n and nowhere else.

    U+2028, U+0085 and the like are part of a line; a byte order mark is none. Raises UserError.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        kind = " but UTF-16" if data.startswith(UTF16) else ""
        fault = "is compressed (gzip)" if data.startswith(GZIP) else f"isn't UTF-8{kind}"
        raise UserError(f"{path.name} {fault}: a text in UTF-8 is needed") from None
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line that isn't blank, and its object. Raises UserError."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_number, object_pairs_hook=_unique)
        except RecursionError:
            raise UserError(f"{path.name}, line {number}: nested too deeply") from None
        except ValueError as error:
            raise UserError(
                f"{path.name}, line {number}: not a JSON object ({_fault(line, error)})"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path.name}, line {number}: not a JSON object; JSON Lines has one per line, "
                "without brackets around them"
            )
        yield number, row


def _fault(line: str, error: ValueError) -> str:
    """Return what is wrong with a line, in a few words."""
    if line.rstrip().endswith("},"):
        return "a comma behind it"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    return f"column {error.colno}; an object has to stand in one line"


def _refuse_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises ValueError for a key that stands there twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return row
