"""How processes end: a run by Ctrl-C or SIGTERM, workers with it, a child with its parent."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


class Stoppable(Protocol):
    """A job that is under way and can be ended."""

    def cancel(self) -> None:
        """End it now, with all its children; may be called from a signal handler."""


LIVE_JOBS: set[Stoppable] = set()
STOP_REQUESTED = threading.Event()  # set once a signal has asked this process to stop


def stop_on_signals() -> None:
    """From now on let a signal end the workers and then this process.

    The exit code is 128 + the signal's number.
    """

    def stop(number: int, _: object) -> None:
        STOP_REQUESTED.set()
        for job in list(LIVE_JOBS):
            job.cancel()
        print(
            "sintra: stopped; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: the terminal may go
        signal.signal(signal.SIGHUP, stop)


def end_when_unread() -> None:
    """From now on end quietly where nobody reads stdout or stderr any more (`| head`).

    Python raises BrokenPipeError where it writes into a closed pipe, after a SIGPIPE that it
    ignores; this answers the signal. It says nothing and stops workers as Ctrl-C does. The exit
    code is 0 where none was running and stderr was read. Other pipes and sockets raise as before.
    """

    def end(number: int, _: object) -> None:
        unread = _mute_unread()
        if not unread:
            return
        STOP_REQUESTED.set()
        jobs = list(LIVE_JOBS)
        for job in jobs:
            job.cancel()
        raise SystemExit(128 + number if jobs or 1 not in unread else 0)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, end)
        atexit.register(_flush_quietly)


def _mute_unread() -> set[int]:
    """Lead stdout and stderr to nowhere where nobody reads them; return the numbers of these."""
    poll, unread = select.poll(), set()
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.fstat(number)
            poll.register(number, 0)
    for number, event in poll.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
            unread.add(number)
    return unread


def _flush_quietly() -> None:
    """Write what is left in the buffers at exit, where somebody reads it."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _mute_unread()  # the interpreter's own flush then goes nowhere
        except (OSError, ValueError, AttributeError):
            pass  # a closed stream, or a full disk: the interpreter says so


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all its children, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def die_with_parent() -> None:
    """Be killed when the parent dies (Linux), so that `kill -9` of doit leaves nothing running."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def peak_rss() -> int:
    """Return the peak resident bytes of this process.

    On Linux they come from /proc: getrusage's maximum outlives fork and exec, and may be the
    parent's.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
