"""Measure the memory bandwidth of this machine.

All cores read and copy arrays at once that are far larger than the caches. Best of several passes,
as STREAM does it (McCalpin, 1995). Copying counts a read and a write of each byte; where a write
first reads the line, the memory moves half as much again, which isn't counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

PASSES = 5


class Bandwidth(TypedDict):
    """A measured memory bandwidth."""

    read: float  # bytes/s
    copy: float  # bytes/s, a read and a write of each byte


def time_together(tasks: list[Callable[[], object]]) -> float:
    """Run each task in a thread; return the seconds from a common start until the last ends."""
    barrier = threading.Barrier(len(tasks) + 1)

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        task()

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def measure_bandwidth(threads: int, total_bytes: int = 512 * 2**20) -> Bandwidth:
    """Return the bandwidth with this many threads over arrays of this many bytes in all."""
    each = max(1, total_bytes // threads // 4)
    sources = [np.ones(each, np.float32) for _ in range(threads)]
    targets = [np.empty(each, np.float32) for _ in range(threads)]
    reads = [time_together([source.max for source in sources]) for _ in range(PASSES)]
    copy_tasks = [_copy_task(t, s) for t, s in zip(targets, sources, strict=True)]
    copies = [time_together(copy_tasks) for _ in range(PASSES)]
    size = 4.0 * each * threads
    return {"read": size / min(reads), "copy": 2 * size / min(copies)}


def _copy_task(target: NDArray[np.float32], source: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: np.copyto(target, source)
