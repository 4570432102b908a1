"""Workers on other machines: what runs there, and how its ending comes back.

The two sides share the cache folder and nothing else. The order lies in it, the node runs `python
-m sintra.build.worker` on it, and writes the ending beside it; artifacts go into the store. Schedulers
carry one function, `run_order`, and a path.
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

from sintra.build.worker_process import Ending, Worker
from sintra.core.stage import cores
from sintra.store.files import write_atomic

# how long a network filesystem may hide a file that another machine has written (NFS: acdirmax, 60
# s at most)
LAG_S = 20.0
GONE = 143


def ending_of(order: Path) -> Path:
    """Where an order's ending is written."""
    return order.with_suffix(".ended")


def read_ending(order: Path) -> Ending | None:
    """The ending, or None while there is none."""
    try:
        next(order.parent.iterdir(), None)  # makes an NFS client look again
        return Ending(**json.loads(ending_of(order).read_text()))
    except (OSError, ValueError):
        return None


@contextmanager
def leaving(worker: Worker) -> Iterator[list[int]]:
    """A scheduler's SIGTERM ends the worker; the list then holds the signal."""
    told: list[int] = []

    def go(number: int, _: object) -> None:
        told.append(number)
        worker.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, go)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def run_order(path: str) -> int:
    """On the node: run the order's worker and leave its ending. A job that is told to go leaves
    none: its scheduler says what became of it, and may start it again. An order that is gone was
    carried out by somebody else.
    """
    order = Path(path)
    try:
        given = json.loads(order.read_text())
    except FileNotFoundError:
        return 0
    worker = Worker(order, given["threads"] or cores(), given["cwd"])
    with leaving(worker) as told:
        ending = worker.run(given["timeout_s"])
    if told:
        return GONE
    write_atomic(ending_of(order), json.dumps(asdict(ending)))
    return 0


class Watched:
    """A job elsewhere: ended when its ending is there, or when its scheduler says that none will
    come.
    """

    def __init__(self, order: Path, poll_s: float) -> None:
        self.order, self.poll_s = order, poll_s
        self.cancelled = threading.Event()

    def gone(self) -> Ending | None:
        """What the scheduler says of a job that can't end by itself any more; None otherwise."""
        raise NotImplementedError

    def stop(self) -> None:
        """Tell the scheduler to end it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """See Job."""
        self.cancelled.set()
        self.stop()

    def wait(self, until: float) -> Ending:
        """See Job."""
        try:
            return self._wait(until)
        finally:
            ending_of(self.order).unlink(missing_ok=True)

    def _wait(self, until: float) -> Ending:
        pause = 0.05
        while True:
            gone = (
                self.gone()
            )  # asked first: what ended before it was asked has left its ending by now
            if (found := read_ending(self.order)) is not None:
                return found
            if self.cancelled.is_set():
                return Ending("cancelled")
            if gone is not None:
                return self._late_word(gone)
            if time.monotonic() > until:
                self.cancel()
                return Ending("late")
            self.cancelled.wait(pause)
            pause = min(self.poll_s, pause * 1.5)

    def _late_word(self, gone: Ending) -> Ending:
        """The ending of a job that is over, where its file is only slow to appear."""
        patience = time.monotonic() + (LAG_S if gone.cause == "exit" else min(1.0, LAG_S))
        while time.monotonic() < patience:
            if (found := read_ending(self.order)) is not None:
                return found
            time.sleep(0.2)
        return Ending("lost", gone.code, gone.log) if gone.cause == "exit" else gone
