"""Load a model in a process of its own, read a prompt and generate, and report the memory.

`python -m sintra.probes.memory_child ORDER` takes an Order as JSON and writes Readings as JSON
lines all the while. It waits for a line on stdin before it loads, so that it can be put under a
limit first.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import psutil

from sintra.core.process import die_with_parent, peak_rss
from sintra.formats.runtime.llama_cpp import last_messages, load_library, open_model
from sintra.hardware.estimate.estimate import UBATCH

PERIOD_S = 0.01  # seconds between two looks at the size
CHANGE = 2**20  # bytes; smaller changes are not reported


class Order(TypedDict):
    """What the process is asked to measure."""

    gguf: str  # path
    context: int  # tokens
    prompt: int  # tokens that are read
    generate: int  # tokens that are generated
    threads: int
    kv: str  # type of the KV cache
    mmap: bool
    rlimit: int | None  # bytes of data that it may have beyond those before loading


class Reading(TypedDict):
    """A line of output; the last one has `done` or `error`."""

    t: float  # seconds since the start
    phase: str  # "start", "load", "prefill", "decode" or "end"
    rss: int  # resident bytes now
    peak: int  # most resident bytes so far, by the kernel
    done: NotRequired[bool]
    error: NotRequired[str]  # class and text of the exception
    log: NotRequired[str]  # the last messages of llama.cpp


def resident_bytes() -> int:
    """Return the resident bytes of this process now."""
    return int(psutil.Process().memory_info().rss)


class ReadingLog:
    """Writes readings to stdout."""

    phase: str  # what the process does now
    start: float  # monotonic time of the start, seconds
    last: int  # resident bytes of the last reading of `watch`
    ended: threading.Event  # ends `watch`

    def __init__(self) -> None:
        self.phase, self.start, self.last = "start", time.monotonic(), -1
        self.lock, self.ended = threading.Lock(), threading.Event()

    def write(self, **end: bool | str) -> None:
        """Write a reading; end: done, or error and log."""
        with self.lock:
            reading = {
                "t": round(time.monotonic() - self.start, 3),
                "phase": self.phase,
                "rss": resident_bytes(),
                "peak": peak_rss(),
            }
            print(json.dumps(reading | end), flush=True)

    def watch(self) -> None:
        """Write a reading whenever the size has changed by a MiB, until `ended` is set."""
        while not self.ended.wait(PERIOD_S):
            now = resident_bytes()
            if abs(now - self.last) >= CHANGE:
                self.last = now
                self.write()

    def enter(self, phase: str) -> None:
        """Write the last reading of a phase, and go on to the next phase."""
        self.write()
        self.phase = phase


def limit_data(more: int) -> None:
    """Let this process have `more` bytes of data beyond those that it has now."""
    text = Path("/proc/self/status").read_text()
    now = (
        int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmData"))) * 1024
    )
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))


def run_model(order: Order, log: ReadingLog) -> None:
    """Load a model, read the prompt, and generate a few tokens."""
    log.enter("load")
    context, prompt = order["context"], order["prompt"]
    micro = min(UBATCH, context)  # the default of llama.cpp's programs
    with open_model(
        Path(order["gguf"]), context, order["threads"], order["mmap"], order["kv"], micro
    ) as model:
        log.enter("prefill")
        model.feed(np.zeros(prompt, dtype=np.int32))
        model.wait()
        log.enter("decode")
        for position in range(prompt, prompt + order["generate"]):
            model.feed(np.zeros(1, dtype=np.int32), start=position)
            model.wait()
        log.enter("end")


def report_memory(argv: list[str]) -> int:
    """Run the order in argv[0] and return the exit code, 3 after an error."""
    die_with_parent()
    order, log = json.loads(argv[0]), ReadingLog()
    load_library()  # the library itself isn't the model's
    log.write()
    sys.stdin.readline()
    if order["rlimit"] is not None:
        limit_data(order["rlimit"])
    watcher = threading.Thread(target=log.watch, daemon=True)
    watcher.start()
    try:
        run_model(order, log)
    except Exception as error:  # whatever it is, the parent needs the last reading with it
        log.write(error=f"{type(error).__name__}: {error}", log=last_messages())
        return 3
    finally:
        log.ended.set()
    log.write(done=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(report_memory(sys.argv[1:]))
