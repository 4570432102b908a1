"""Run workers as processes of this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sintra.build.worker_process import ResourceRequest, Worker, WorkerExit
from sintra.config.options import ExecutorConf
from sintra.core.stage import Resource, cores


class Process(Worker):
    """A worker with a time limit."""

    def __init__(self, order: Path, request: ResourceRequest) -> None:
        self.request = request
        super().__init__(order, request.threads)

    def wait(self, until: float) -> WorkerExit:
        """Block until the worker has ended; cancel it at `until` (time.monotonic)."""
        return self.run(min(self.request.timeout_s, until - time.monotonic()))


class Local:
    """executor=local, the default.

    A step that was killed for want of memory is tried once more with nothing beside it.
    """

    here = True
    mem_gb = None

    def __init__(self, options: ExecutorConf, root: Path) -> None:
        self.retries: int = options.retries

    def threads(self, resource: Resource) -> int:
        """Return this machine's cores; the gate shares them out."""
        return cores()

    def submit(self, order: Path, request: ResourceRequest) -> Process:
        """Start a worker on an order's file."""
        return Process(order, request)

    def more(self, request: ResourceRequest) -> ResourceRequest | None:
        """Return the same with the machine to itself, after memory ran out."""
        heavy = request.resource == "heavy"
        return replace(request, resource="alone", threads=cores()) if heavy else None
