"""Read what a board says: lines of JSON from our runner, or from whatever runs there in its place.

Nothing in them reaches a terminal, a page or a file unless it is printable, bounded and of the
kind that the runner sends.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, cast

from sintra.core.text import printable_text

LONGEST_LINE = 1 << 20  # characters of a line, with the end of a process's output in it
LONGEST_TEXT = 200  # characters of a line for people

Row = dict[str, Any]  # a line of the runner's


def _text(length: int = LONGEST_TEXT) -> Row:
    return {"type": "string", "maxLength": length}


def _object(**properties: Row) -> Row:
    return {"type": "object", "required": list(properties), "properties": properties}


COUNT: Row = {"type": "integer", "minimum": 0, "maximum": 1 << 62}
NUMBER: Row = {"type": "number", "minimum": -1e18, "maximum": 1e18}
SPEED: Row = {"type": "number", "minimum": 0, "maximum": 1e18}
OPTIONAL: Row = {"anyOf": [NUMBER, {"type": "null"}]}
LOG = _text(LONGEST_LINE)
MEASURED: Row = {  # one line of a measurement; none of the keys is in all
    "type": "object",
    "properties": {
        "metric": {"enum": ["pp_tps", "tg_tps"]},
        "rates": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": SPEED},
        "build": _text(),
        "gpu": {"type": "boolean"},
        "peak": COUNT,
        "load_s": SPEED,
        "error": LOG,
        "log": LOG,
    },
    "dependentRequired": {"metric": ["rates"]},
}
ANSWERS: dict[str, Row] = {  # job -> JSON schema of its answer
    "machine": _object(
        board=_text(),
        cpu=_text(),
        architecture=_text(),
        mode=_text(),
        cores={"type": "integer", "minimum": 1, "maximum": 1 << 16},
        memory=COUNT,
        limit=OPTIONAL,
        runtime=_object(
            kind={"enum": ["llama-cpp-python", "llama-bench", ""]},
            version=_text(),
            path=_text(LONGEST_LINE),
        ),
    ),
    "hash": _object(sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"}),
    "room": _object(free=COUNT, removed=COUNT),
}
RUN = _object(  # the answer to a measurement
    phase=_text(),
    rss=COUNT,
    peak=COUNT,
    system=NUMBER,
    celsius=OPTIONAL,
    mhz=OPTIONAL,
    throttled={"type": "array", "maxItems": 1000, "items": _text()},
    swapped=COUNT,
    oom_kills=NUMBER,
    seconds=NUMBER,
    rows={"type": "array", "maxItems": 1000, "items": MEASURED},
    code={"type": "integer", "minimum": -(1 << 31), "maximum": 1 << 31},
    late={"type": "boolean"},
    log=LOG,
)


def read_row(line: str) -> Row:
    """Return a line of the runner's, its texts printable; {} for a line that is not one."""
    if not line.startswith("{") or len(line) > LONGEST_LINE:
        return {}
    try:
        return cast(Row, printable(json.loads(line, parse_constant=_refuse)))
    except (ValueError, RecursionError):
        return {}


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and the like are no JSON


def printable(value: Any) -> Any:
    """Return a JSON value whose texts have no control characters but line breaks and tabs."""
    if isinstance(value, str):
        return printable_text(value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def is_answer(job: str, answer: Any) -> bool:
    """Return whether a value has the form of a job's answer."""
    from jsonschema import Draft202012Validator  # not on the no-op path

    return bool(Draft202012Validator(ANSWERS.get(job, RUN)).is_valid(answer))


def progress_text(row: Row) -> str:
    """Return a line of the runner's for people; "" where there is nothing to say."""
    try:
        return " ".join((str(row["say"]) if "say" in row else _reading(row)).split())[:LONGEST_TEXT]
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""


def _reading(row: Row) -> str:
    heat = f", {row['celsius']:.0f} C" if row.get("celsius") is not None else ""
    clock = f", {row['mhz']:.0f} MHz" if row.get("mhz") is not None else ""
    return f"{row['t']:.0f} s in {row['phase']}: {row['rss'] / 2**20:.0f} MiB{heat}{clock}"
