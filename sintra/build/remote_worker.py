"""Run workers on other machines, and bring back how they ended.

The two sides share the cache folder and nothing else. The order lies in it; the node runs
`python -m sintra.build.worker` on it and writes the exit beside it; artifacts go into the store.
Schedulers carry one function, `run_order`, and a path.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sintra.build.worker_process import Worker, WorkerExit
from sintra.core.stage import cores
from sintra.store.files import write_atomic

# How long a network filesystem may hide a file that another machine has written (NFS: acdirmax,
# 60 s at most).
LAG_S = 20.0
SIGTERM_EXIT = 143  # 128 + SIGTERM


def exit_path(order: Path) -> Path:
    """Return where an order's exit is written."""
    return order.with_suffix(".ended")


def read_exit(order: Path) -> WorkerExit | None:
    """Return how an order's worker ended, or None while it runs."""
    try:
        next(order.parent.iterdir(), None)  # makes an NFS client look again
        return WorkerExit(**json.loads(exit_path(order).read_text()))
    except (OSError, ValueError):
        return None


@contextmanager
def cancelled_by_sigterm(worker: Worker) -> Iterator[list[int]]:
    """Cancel the worker on a scheduler's SIGTERM; the list then holds the signal."""
    signals: list[int] = []

    def cancel(number: int, _: object) -> None:
        signals.append(number)
        worker.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = signal.signal(signal.SIGTERM, cancel)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def run_order(path: str) -> int:
    """Run an order's worker on a node, write how it ended, and return the exit code.

    A job that gets SIGTERM writes nothing: its scheduler says what became of it, and may start it
    again. An order that is gone was carried out by somebody else.
    """
    order = Path(path)
    try:
        fields = json.loads(order.read_text())
    except FileNotFoundError:
        return 0
    worker = Worker(order, fields["threads"] or cores(), fields["cwd"])
    with cancelled_by_sigterm(worker) as signals:
        worker_exit = worker.run(fields["timeout_s"])
    if signals:
        return SIGTERM_EXIT
    write_atomic(exit_path(order), json.dumps(asdict(worker_exit)))
    return 0


class RemoteJob:
    """A job on another machine.

    It has ended when its exit is written, or when its scheduler says that none will be.
    """

    def __init__(self, order: Path, poll_s: float) -> None:
        self.order, self.poll_s = order, poll_s
        self.cancelled = threading.Event()

    def scheduler_exit(self) -> WorkerExit | None:
        """Return what the scheduler says of a job that is over; None while it may run."""
        raise NotImplementedError

    def stop(self) -> None:
        """Tell the scheduler to end the job."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End the job and return at once."""
        self.cancelled.set()
        self.stop()

    def wait(self, until: float) -> WorkerExit:
        """Block until the job has ended; cancel it at `until` (time.monotonic)."""
        try:
            return self._wait(until)
        finally:
            exit_path(self.order).unlink(missing_ok=True)

    def _wait(self, until: float) -> WorkerExit:
        pause = 0.05
        while True:
            over = self.scheduler_exit()  # first: a job that was over by then has written its exit
            if (written := read_exit(self.order)) is not None:
                return written
            if self.cancelled.is_set():
                return WorkerExit("cancelled")
            if over is not None:
                return self._late_exit(over)
            if time.monotonic() > until:
                self.cancel()
                return WorkerExit("late")
            self.cancelled.wait(pause)
            pause = min(self.poll_s, pause * 1.5)

    def _late_exit(self, over: WorkerExit) -> WorkerExit:
        """Return the exit of a job that is over; its file may be slow to appear."""
        patience = time.monotonic() + (LAG_S if over.cause == "exit" else min(1.0, LAG_S))
        while time.monotonic() < patience:
            if (written := read_exit(self.order)) is not None:
                return written
            time.sleep(0.2)
        return WorkerExit("lost", over.code, over.log) if over.cause == "exit" else over
