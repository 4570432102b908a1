"""A process of its own that loads a model, reads a prompt and generates, and says all the while
what memory it holds.

`python -m sintra.probes.memory_child '{"gguf", "context", "threads", "kv", "mmap", "rlimit"}'` writes JSON
lines: {"t": seconds, "phase", "rss": bytes, "peak": bytes}, then {"done": true} or {"error"}. It
waits for a line on stdin before it loads, so that it can be put under a limit first; rlimit: bytes
of data that it may have beyond what it has then, or null.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sintra.core.process import peak_rss
from sintra.hardware.estimate.estimate import UBATCH

PERIOD_S = 0.01
TOKENS = 16


def resident_bytes() -> int:
    """Resident bytes of this process now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


class ReadingLog:
    """Writes a reading every few milliseconds; `phase` is what the process is at."""

    def __init__(self) -> None:
        self.phase, self.start, self.last = "start", time.monotonic(), -1
        self.lock, self.ended = threading.Lock(), threading.Event()

    def note(self, **more: Any) -> None:
        """A line."""
        with self.lock:
            t = round(time.monotonic() - self.start, 3)
            print(
                json.dumps(
                    {"t": t, "phase": self.phase, "rss": resident_bytes(), "peak": peak_rss()}
                    | more
                ),
                flush=True,
            )

    def watch(self) -> None:
        """Until the end: a line whenever the size has changed by a MiB."""
        while not self.ended.wait(PERIOD_S):
            now = resident_bytes()
            if abs(now - self.last) >= 2**20:
                self.last = now
                self.note()

    def enter(self, phase: str) -> None:
        """The end of a phase and the begin of the next."""
        self.note()
        self.phase = phase


def limit_data(more: int) -> None:
    """Let this process have so many bytes of data beyond what it has."""
    text = Path("/proc/self/status").read_text()
    now = (
        int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmData"))) * 1024
    )
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))


def run_model(order: dict[str, Any], diary: ReadingLog) -> None:
    """Load, prefill the context but a few tokens, decode those."""
    import numpy as np

    from sintra.formats.runtime.llama_cpp import open_model

    diary.enter("load")
    context = order["context"]
    tokens = min(TOKENS, context // 2)
    micro = min(UBATCH, context)  # what llama.cpp's programs take unless told otherwise
    with open_model(
        Path(order["gguf"]), context, order["threads"], order["mmap"], order["kv"], micro
    ) as model:
        diary.enter("prefill")
        model.feed(np.zeros(context - tokens, dtype=np.int32))
        model.wait()
        diary.enter("decode")
        for place in range(context - tokens, context):
            model.feed(np.zeros(1, dtype=np.int32), start=place)
            model.wait()
        diary.enter("end")


def report_memory(argv: list[str]) -> int:
    """The process's entry."""
    from sintra.core.process import die_with_parent
    from sintra.formats.runtime.llama_cpp import last_messages, load_library

    die_with_parent()
    order, diary = json.loads(argv[0]), ReadingLog()
    load_library()  # the library itself isn't the model's
    diary.note()
    sys.stdin.readline()
    if order["rlimit"] is not None:
        limit_data(order["rlimit"])
    watcher = threading.Thread(target=diary.watch, daemon=True)
    watcher.start()
    try:
        run_model(order, diary)
    except Exception as error:  # whatever it is, the parent wants the last reading with it
        diary.note(error=f"{type(error).__name__}: {error}", log=last_messages())
        return 3
    finally:
        diary.ended.set()
    diary.note(done=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(report_memory(sys.argv[1:]))
