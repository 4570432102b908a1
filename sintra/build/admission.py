"""Decide which steps run on this machine at once, by cores, memory, and silence for speed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sintra.build.worker_process import ResourceRequest


class Gate:
    """Admit steps: a light one takes a core, a heavy one its share, one that measures everything.

    A step that asks for more memory than there is runs when no other heavy one does.
    """

    def __init__(self, size: int, heavy: int = 1, memory: int | None = None) -> None:
        self.size = size  # cores
        self.heavy = max(1, min(heavy, size))  # heavy steps at once
        self.memory = memory  # bytes for heavy steps together; None: no limit
        self.free = size + 1  # units that nobody has
        self.builds = 0  # heavy steps under way
        self.reserved = 0  # bytes that they have reserved
        self.changed = threading.Condition()

    @property
    def share(self) -> int:
        """Return the threads of a heavy step."""
        return self.size // self.heavy

    def room(self, request: ResourceRequest) -> bool:
        """Return whether a step may start now."""
        if self.units(request) > self.free:
            return False
        if request.resource != "heavy":
            return True
        full = (
            self.memory is not None
            and self.builds > 0
            and self.reserved + request.memory > self.memory
        )
        return self.builds < self.heavy and not full

    def units(self, request: ResourceRequest) -> int:
        """Return what a step takes of the size + 1 units."""
        return {"light": 1, "heavy": self.share, "alone": self.size + 1}[request.resource]

    @contextmanager
    def hold(self, request: ResourceRequest) -> Iterator[None]:
        """Wait until there is room, and keep it while the block runs."""
        build = int(request.resource == "heavy")
        with self.changed:
            self.changed.wait_for(lambda: self.room(request))
            self._take(request, build)
        try:
            yield
        finally:
            with self.changed:
                self._take(request, -build, -1)
                self.changed.notify_all()

    def _take(self, request: ResourceRequest, build: int, sign: int = 1) -> None:
        self.free -= sign * self.units(request)
        self.builds += build
        self.reserved += sign * request.memory
