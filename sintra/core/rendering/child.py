"""The child process in which templates and patterns of others are carried out.

It reads orders on standard input, one line of JSON each, and writes a line for each of an order's
rows and a last one. Time and memory are limited, and where the kernel can, every right is given up
before the first order (sintra.core.jail). Each order gets an environment of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from sintra.core.jail.confine import JailError, confine, set_possible_limits
from sintra.core.rendering.chat_texts import conversation_renderer
from sintra.core.rendering.task_texts import pattern_finder, row_renderer
from sintra.core.rendering.words import Answer, Refused

LIFE_S = 24 * 3600  # processor seconds of all orders; each has its own limit besides
PREPARE: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "rows": row_renderer,
    "pattern": pattern_finder,
    "chat": conversation_renderer,
}


def main(path: str, megabytes: str) -> None:
    """Answer orders until standard input ends; path: Python's search path as JSON."""
    sys.path[:] = json.loads(path)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints is no reply
    import_jinja()
    try:
        confine(LIFE_S, int(megabytes))
    except JailError:  # the sandbox is left
        set_possible_limits(LIFE_S, int(megabytes))
    replies.write('{"ready": true}\n')
    replies.flush()
    for line in sys.stdin.buffer:
        order = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, order["seconds"])  # then SIGPROF ends this process
        for reply in replies_to(order):
            replies.write(json.dumps(reply) + "\n")
            replies.flush()  # so that it is known which row is the last
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write('{"done": true}\n')
        replies.flush()


def import_jinja() -> None:
    """Load what is needed before nothing can be read any more."""
    for name in ("sandbox", "debug", "constants", "ext", "filters", "tests"):
        __import__(f"jinja2.{name}")


def replies_to(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a reply for each row, or one for all where what was ordered is no template."""
    try:
        answer = PREPARE[order["do"]](order)
    except Refused as error:
        yield {"unfit": str(error)}
        return
    for row in order["rows"]:
        try:
            yield {"answer": answer(row)}
        except Refused as error:
            yield {"refused": str(error)}
