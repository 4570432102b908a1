"""Render a task file's templates and search with its patterns, in a child process with limits.

Nothing that a task file says is carried out in Sintra's own process: a template or a pattern can
run for ever, fill the memory, or try to leave the sandbox (template_child.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sintra.core.errors import UserError
from sintra.core.process import kill_group

ROOT = Path(__file__).resolve().parents[3]  # the folder with the package sintra
START = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "from sintra.config.tasks.template_child import main; main(*sys.argv[1:])"
)
SECONDS = 2  # CPU seconds, and one more for each ROWS_PER_SECOND rows
ROWS_PER_SECOND = 500
WALL_SECONDS = 60  # besides ten times the CPU seconds, for a busy machine
MEGABYTES = 512  # address space, MiB
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
    common = {"do": "render", "templates": [(t.name, t.text, t.kind) for t in templates]}
    return answers(common, rows)


def find_all(pattern: str, texts: Sequence[str], group: int, fallback: str) -> list[str]:
    """Return what lm-eval's filter `regex` extracts from each text. Raises TemplateError."""
    return answers({"do": "find", "pattern": pattern, "group": group, "fallback": fallback}, texts)


def answers(common: dict[str, Any], rows: Sequence[Any]) -> list[Any]:
    """Return the child's answer to each row. Raises TemplateError."""
    seconds = SECONDS + len(rows) // ROWS_PER_SECOND
    lines = run_child([common, *rows], seconds)
    given = []
    for number, line in enumerate(lines, 1):
        if "refused" in line:
            raise TemplateError(printable(line["refused"]), number)
        given.append(line["answer"])
    if len(given) < len(rows):
        raise TemplateError(
            f"takes more than {seconds} s of CPU time or {MEGABYTES} MiB of memory",
            len(given) + 1,
        )
    return given


def run_child(requests: Iterable[Any], seconds: int) -> list[dict[str, Any]]:
    """Return the lines that a new child writes until it ends or its time is up."""
    path = json.dumps([p for p in sys.path if p])
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", START, path, str(seconds), str(MEGABYTES)],
        cwd="/",
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    text = "".join(json.dumps(request) + "\n" for request in requests).encode()
    try:
        out, _ = process.communicate(text, timeout=WALL_SECONDS + 10 * seconds)
    except subprocess.TimeoutExpired:
        out = b""
    finally:
        kill_group(process)
    return [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith(b"\n")]


def printable(text: object) -> str:
    """Return a text of others in one printable line."""
    return "".join(c if c.isprintable() else "?" for c in str(text))
