"""Workers as processes of this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from sintra.build.worker_process import Ending, Need, Worker
from sintra.config.options import ExecutorConf
from sintra.core.stage import Resource, cores


class Process(Worker):
    """A worker with a time limit."""

    def __init__(self, order: Path, need: Need) -> None:
        self.need = need
        super().__init__(order, need.threads)

    def wait(self, until: float) -> Ending:
        """See Job."""
        return self.run(min(self.need.timeout_s, until - time.monotonic()))


class Local:
    """The default. A step that was killed for want of memory beside others is tried once more with
    nothing beside it.
    """

    here = True
    mem_gb = None

    def __init__(self, options: ExecutorConf, root: Path) -> None:
        self.retries: int = options.retries

    def threads(self, resource: Resource) -> int:
        """See Executor; the gate shares out this machine's cores."""
        return cores()

    def submit(self, order: Path, need: Need) -> Process:
        """See Executor."""
        return Process(order, need)

    def more(self, need: Need) -> Need | None:
        """See Executor."""
        return (
            replace(need, resource="alone", threads=cores()) if need.resource == "heavy" else None
        )
