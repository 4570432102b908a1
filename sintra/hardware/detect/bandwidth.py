"""Memory bandwidth of this machine, measured: reading and copying arrays far larger than the
caches, all cores at once.

Best of several passes, as STREAM does it (McCalpin, 1995). Copying counts a read and a write of
each byte; where a write first reads the line, the memory moves half as much again, which isn't
counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

PASSES = 5


def together(work: list[Callable[[], object]]) -> float:
    """Seconds from a common start until the last has ended."""
    gate = threading.Barrier(len(work) + 1)

    def run(task: Callable[[], object]) -> None:
        gate.wait()
        task()

    threads = [threading.Thread(target=run, args=(task,)) for task in work]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def bandwidth(threads: int, total_bytes: int = 512 * 2**20) -> dict[str, float]:
    """{"read", "copy"} in bytes/s with this many threads over arrays of this many bytes in all."""
    each = max(1, total_bytes // threads // 4)
    sources = [np.ones(each, np.float32) for _ in range(threads)]
    targets = [np.empty(each, np.float32) for _ in range(threads)]
    reads = [together([source.max for source in sources]) for _ in range(PASSES)]
    pairs = list(zip(targets, sources, strict=True))
    copies = [together([lambda t=t, s=s: np.copyto(t, s) for t, s in pairs]) for _ in range(PASSES)]  # type: ignore[misc]
    size = 4.0 * each * threads
    return {"read": size / min(reads), "copy": 2 * size / min(copies)}
