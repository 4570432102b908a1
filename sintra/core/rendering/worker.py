"""Have templates and patterns of others carried out by a child process that stays (jailed.py).

It ends with an order that takes too long, answers too much or in another notation; the next order
goes to a new one. Whoever's text had left its sandbox could answer as it likes from then on, but
only to orders of that same text: for another one a new child is started.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sintra.core.rendering.jailed import JailedChild, Replies, Unusable

MEGABYTES = 512  # address space of a child, MiB
WALL_S = 60.0  # of an order by the clock, besides ten times its processor seconds


class RenderProcess:
    """A child process that renders; started when it is needed. Several threads may use it."""

    def __init__(self) -> None:
        self.texts_a_child = 1
        """So many different texts are given to one child; more only to try many."""
        self._child: JailedChild | None = None
        self._texts: set[str] = set()  # what the child has been given
        self._lock = threading.Lock()

    def ask(self, order: Mapping[str, Any], rows: Sequence[Any], seconds: float) -> Replies:
        """Return the replies to the rows of an order, which holds what one author wrote.

        seconds: of processor time for all of them.
        """
        text = json.dumps(order)
        line = json.dumps({**order, "rows": rows, "seconds": seconds}).encode() + b"\n"
        with self._lock:
            try:
                return self._asked(text, line, len(rows), WALL_S + 10 * seconds)
            except Unusable as error:
                return Replies([], str(error))
            except BaseException:  # Ctrl-C: what is still to come from it belongs to nobody
                self._end()
                raise

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _asked(self, text: str, line: bytes, rows: int, wall_s: float) -> Replies:
        """Return the replies; of a new child where an old one was killed. Raises Unusable."""
        child, fresh = self._ready_for(text)
        replies = child.ask(line, rows, wall_s)
        if replies.killed and not fresh:  # with the thread that had started it, say
            replies = self._ready_for(text)[0].ask(line, rows, wall_s)
        return replies

    def _ready_for(self, text: str) -> tuple[JailedChild, bool]:
        """Return a child that may be given a text, and whether it is a new one.

        Raises Unusable where none can be started.
        """
        full = text not in self._texts and len(self._texts) >= self.texts_a_child
        if self._child is not None and (full or not self._child.alive):
            self._end()
        fresh = self._child is None
        child = self._child = self._child or JailedChild(MEGABYTES)
        self._texts.add(text)
        return child, fresh

    def _end(self) -> None:
        child, self._child, self._texts = self._child, None, set()
        if child is not None:
            child.end()


SHARED = RenderProcess()
"""The one of this process: its child ends with it, since its stdin does."""
