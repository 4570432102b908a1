"""Start a worker in a process group of its own, wait for it, and say how it ended."""

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
# How often a waiting thread of GNU's OpenMP (torch, llama.cpp) looks before it sleeps. By default
# it looks for milliseconds: lost on a core that another process wants (docs/benchmarks.md).
SPIN_COUNT = "1000"
OOM_COUNTS = (
    "/proc/vmstat",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
)
Cause = Literal["exit", "late", "memory", "lost", "cancelled"]


@dataclass(frozen=True)
class WorkerExit:
    """How a worker ended."""

    cause: Cause  # exit: the code counts; late: time limit; memory: none left; lost: machine gone
    code: int = 0  # exit code
    log: str = ""  # the tail of its log, or what its scheduler says


@dataclass(frozen=True)
class ResourceRequest:
    """What a step asks of the machine that runs it."""

    name: str  # of the step
    resource: Resource = "heavy"
    threads: int = 1  # 0: all cores
    measures: bool = False  # whether its numbers are about that machine
    timeout_s: float = 4 * 3600.0  # time limit, seconds
    memory: int = 0  # a rough guess, bytes
    mem_gb: float | None = None  # what a scheduler is asked for, GiB; None: its default


class Job(Protocol):
    """A worker that runs, here or on another machine."""

    def wait(self, until: float) -> WorkerExit:
        """Block until it has ended; cancel it at `until`, on the clock of time.monotonic()."""

    def cancel(self) -> None:
        """End it and return at once; any thread and a signal handler may call this."""


class Executor(Protocol):
    """Where workers run."""

    here: bool  # on this machine, whose cores and memory the gate shares out
    retries: int  # further tries of a step after a fault that may pass
    mem_gb: float | None  # memory of a job on another machine, to begin with, GiB

    def threads(self, resource: Resource) -> int:
        """Return the threads of a step on another machine; 0: as many as it has cores."""

    def submit(self, order: Path, request: ResourceRequest) -> Job:
        """Start a worker on an order's file. Raises UserError where that isn't possible."""

    def more(self, request: ResourceRequest) -> ResourceRequest | None:
        """Return what to ask for after memory ran out, or None where there is no more."""


def environment(threads: int) -> dict[str, str]:
    """Return a worker's environment variables.

    They bound its threads and how long these spin, turn off bars and telemetry of libraries, and
    name its parent.
    """
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    bound = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
    )
    spinning = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": SPIN_COUNT}
    own = {"SINTRA_PARENT": str(os.getpid())}
    return {**spinning, **os.environ, **quiet, **bound, **own}


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory.

    Counted are those of this machine, or of this container.
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
    """A worker that this process started."""

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

    def run(self, timeout_s: float) -> WorkerExit:
        """Wait at most so many seconds; the whole process group is gone afterwards."""
        late = False
        try:
            code = self.process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            late, code = True, 0
        finally:
            kill_group(self.process)
        log = self._tail()
        if self.cancelled:
            return WorkerExit("cancelled", code, log)
        if late:
            return WorkerExit("late", 0, log)
        starved = code == -signal.SIGKILL and oom_kills() > self.before
        return WorkerExit("memory" if starved else "exit", code, log)

    def _tail(self) -> str:
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(0, end - LOG_TAIL))
            text = log.read().decode(errors="replace")
        self.log_path.unlink(missing_ok=True)
        return text

    def cancel(self) -> None:
        """Kill the worker with all its children."""
        self.cancelled = True
        kill_group(self.process)
