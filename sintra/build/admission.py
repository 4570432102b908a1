"""Who may run on this machine at the same time: cores, memory, and silence for what is measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sintra.build.worker_process import Need


class Gate:
    """A light step takes one core, a heavy one its share of them, one that measures everything.

    size: cores; heavy: how many heavy steps at once; memory: bytes for heavy steps (None: not
    looked at). A step that asks for more than there is runs when no other heavy one does.
    """

    def __init__(self, size: int, heavy: int = 1, memory: int | None = None) -> None:
        self.size, self.heavy, self.memory = size, max(1, min(heavy, size)), memory
        self.free = size + 1
        self.builds = 0
        self.held = 0
        self.changed = threading.Condition()

    @property
    def share(self) -> int:
        """The threads of a heavy step."""
        return self.size // self.heavy

    def room(self, need: Need) -> bool:
        """Whether a step may start now."""
        if self.units(need) > self.free:
            return False
        if need.resource != "heavy":
            return True
        full = self.memory is not None and self.builds > 0 and self.held + need.memory > self.memory
        return self.builds < self.heavy and not full

    def units(self, need: Need) -> int:
        """What a step takes of size + 1."""
        return {"light": 1, "heavy": self.share, "alone": self.size + 1}[need.resource]

    @contextmanager
    def hold(self, need: Need) -> Iterator[None]:
        """Wait until there is room."""
        build = int(need.resource == "heavy")
        with self.changed:
            self.changed.wait_for(lambda: self.room(need))
            self._take(need, build)
        try:
            yield
        finally:
            with self.changed:
                self._take(need, -build, -1)
                self.changed.notify_all()

    def _take(self, need: Need, build: int, sign: int = 1) -> None:
        self.free -= sign * self.units(need)
        self.builds += build
        self.held += sign * need.memory
