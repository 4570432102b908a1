"""Ctrl-C and SIGTERM: end every worker, say one line, leave. And the other side: die with one's
parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol


class Stoppable(Protocol):
    """What is under way and can be ended."""

    def cancel(self) -> None:
        """End it now, with all its children; may be called from a signal handler."""


LIVE: set[Stoppable] = set()
TOLD = threading.Event()  # set once we are to stop


def stop_when_told() -> None:
    """From now on a signal ends the workers and then this process, with 128 + the signal's number
    as exit code.
    """

    def stop(number: int, _: object) -> None:
        TOLD.set()
        for job in list(LIVE):
            job.cancel()
        print(
            "sintra: stopped; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        if (
            signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        ):  # nohup says that the terminal may go
            signal.signal(signal.SIGHUP, stop)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all its children, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent() -> None:
    """On Linux, be killed when the parent dies, so that `kill -9` of doit leaves nothing running."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def peak() -> int:
    """Peak resident bytes of this process. On Linux, getrusage's maximum outlives fork and exec: it
    may be the parent's.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
