"""A worker in a process group of its own: started, waited for, and what its end was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sintra.core.process import kill_group
from sintra.core.stage import Resource

LOG_TAIL = 4000
OOM_COUNTS = (
    "/proc/vmstat",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
)
Cause = Literal["exit", "late", "memory", "lost", "cancelled"]


@dataclass(frozen=True)
class Ending:
    """How a worker ended. cause: exit (the code counts), late (its time limit), memory (killed
    because there was none left), lost (its machine or its job has gone), cancelled; log: the tail
    of what it said, or who says so.
    """

    cause: Cause
    code: int = 0
    log: str = ""


@dataclass(frozen=True)
class Need:
    """What a step asks of the machine that runs it. threads: 0 for all cores; measures: its numbers
    are about that machine; timeout_s: its limit; memory: bytes, a rough guess; mem_gb: what a
    scheduler is asked for (None: its default).
    """

    name: str
    resource: Resource = "heavy"
    threads: int = 1
    measures: bool = False
    timeout_s: float = 4 * 3600.0
    memory: int = 0
    mem_gb: float | None = None


class Job(Protocol):
    """A worker under way, here or elsewhere."""

    def wait(self, until: float) -> Ending:
        """Block until it has ended; at `until` (time.monotonic) it is cancelled."""

    def cancel(self) -> None:
        """End it now; returns at once, and may be called from any thread and a signal handler."""


class Executor(Protocol):
    """Where workers run. here: on this machine, whose cores and memory we share out ourselves;
    retries: how often a step is tried again after a fault that may pass; mem_gb: what a job
    elsewhere has, to begin with.
    """

    here: bool
    retries: int
    mem_gb: float | None

    def threads(self, resource: Resource) -> int:
        """The threads of a step elsewhere; 0: as many as that machine has cores."""

    def submit(self, order: Path, need: Need) -> Job:
        """Start a worker on this order. Raises UserError where that can't be."""

    def more(self, need: Need) -> Need | None:
        """What to ask for after memory ran out, or None where there is no more."""


def environment(threads: int) -> dict[str, str]:
    """The worker's environment: bounded threads, no bars or telemetry of libraries, our process as
    its parent.
    """
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    bound = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
    )
    return {**os.environ, **quiet, **bound, "SINTRA_PARENT": str(os.getpid())}


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, on this machine or in this
    container.
    """
    count = 0
    for path in OOM_COUNTS:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        count += sum(int(x.split()[1]) for x in lines if x.startswith("oom_kill "))
    return count


class Worker:
    """A worker of this process."""

    def __init__(self, order: Path, threads: int, cwd: str | None = None) -> None:
        self.cancelled = False
        self.before = oom_kills()
        self.log_path = order.with_suffix(".log")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sintra.build.worker", str(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(threads),
                cwd=cwd,
                start_new_session=True,
            )

    def run(self, timeout_s: float) -> Ending:
        """Wait so long at most; the whole process group is gone afterwards."""
        late = False
        try:
            code = self.process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            late, code = True, 0
        finally:
            kill_group(self.process)
        log = self._tail()
        if self.cancelled:
            return Ending("cancelled", code, log)
        if late:
            return Ending("late", 0, log)
        starved = code == -signal.SIGKILL and oom_kills() > self.before
        return Ending("memory" if starved else "exit", code, log)

    def _tail(self) -> str:
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(0, end - LOG_TAIL))
            text = log.read().decode(errors="replace")
        self.log_path.unlink(missing_ok=True)
        return text

    def cancel(self) -> None:
        """Kill it with all its children."""
        self.cancelled = True
        kill_group(self.process)
