"""Measure memory over load, prefill and decode of the served context, with mmap off and on.

Each of the two runs is a process of its own. With a limit (goal.enforce_memory: the device's usable
RAM) the run without mmap is put under it, and its end proves whether the artifact fits. The
process's own size before the model is loaded doesn't count against the limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from sintra.core.errors import Infeasible, Transient
from sintra.core.stage import Context, Params, Stage, machine
from sintra.core.types import Measurement
from sintra.hardware.estimate.estimate import UBATCH
from sintra.hardware.memory_limit import MemoryLimit, memory_limit
from sintra.probes.measurements import MEASUREMENTS_FILE, write_measurements

if TYPE_CHECKING:
    from sintra.probes.memory_child import Order, Reading

MIB = 2**20
TOKENS = 16  # most tokens that are generated
READ = 2 * UBATCH  # tokens of a long context that are read, see `prompt_tokens`
PHASES = ("load", "prefill", "decode")


def run(context: Context) -> None:
    """Measure twice; write measurements.json, and the readings to timeline.json.

    Raises Infeasible where the model does not fit the limit.
    """
    limit = context.params.get("limit")
    if limit is None:
        plain = measure_child(context, False, None)
        mode = "no mmap"
    else:
        with memory_limit(limit) as around:
            plain = measure_child(context, False, around)
            mode = f"no mmap, under a {around.kind} of {limit / MIB:.0f} MiB"
    mapped = measure_child(context, True, None)
    context.write_json("timeline.json", {"no_mmap": plain, "mmap": mapped, "limit": limit})
    write_measurements(context, peak_measurements(context.params, plain, mapped, mode))


def prompt_tokens(context: int, whole: bool) -> int:
    """Return how many tokens of a context are read, with room for those that are generated.

    llama.cpp allocates and clears the cache of the whole context when it loads, and its buffers
    are in use from the second micro-batch on. What reading on adds is the attention's mask: 3 of
    281 MB at 4096 tokens of SmolLM2, in fifteen times the time. whole: whether all is read.
    """
    longest = context - min(TOKENS, context // 2)
    return longest if whole else min(longest, READ)


def peak_measurements(
    params: Params, plain: list[Reading], mapped: list[Reading], mode: str
) -> Iterator[Measurement]:
    """Yield the peaks in bytes: of the whole run, of each phase, and with mmap.

    plain, mapped: readings without and with mmap; mode: how `plain` was run, for the protocol.
    """
    read = prompt_tokens(params["context"], params.get("limit") is not None)
    context = f"context {params['context']}, {params.get('kv', 'f16')} cache, {read} tokens read"
    protocol = f"{context}, {mode}, {plain[0]['rss'] / MIB:.0f} MiB before loading"
    yield bytes_measurement("ram_peak_bytes", peak_bytes(plain), protocol)
    for phase in PHASES:
        most = max(reading["rss"] for reading in plain if reading["phase"] == phase)
        yield bytes_measurement(f"ram_{phase}_bytes", most, protocol)
    protocol = f"{context}, mmap, {mapped[0]['rss'] / MIB:.0f} MiB before loading"
    yield bytes_measurement("ram_peak_mmap_bytes", peak_bytes(mapped), protocol)


def bytes_measurement(metric: str, size: float, protocol: str) -> Measurement:
    """Return a measurement of bytes on this machine."""
    return Measurement(metric, size, "bytes", "measured", where=machine(), protocol=protocol)


def peak_bytes(readings: list[Reading]) -> float:
    """Return the peak: the kernel's own, or a reading above it.

    The kernel counts in batches for each thread.
    """
    return max(float(max(reading["rss"], reading["peak"])) for reading in readings)


def measure_child(context: Context, mmap: bool, limit: MemoryLimit | None) -> list[Reading]:
    """Run the child and return its readings.

    Raises Infeasible with the last reading where the limit was too tight for it or the model cannot
    be loaded, and Transient where the child ended for another reason.
    """
    size = context.params["context"]
    prompt = prompt_tokens(size, context.params.get("limit") is not None)
    order: Order = {
        "gguf": str(context.inputs["gguf"] / "model.gguf"),
        "context": size,
        "prompt": prompt,
        "generate": min(TOKENS, size // 2),
        "mmap": mmap,
        "kv": context.params.get("kv", "f16"),
        "threads": context.threads,
        "rlimit": limit.limit if limit and limit.kind == "rlimit" else None,
    }
    code, readings, log = run_child(order, limit)
    if code == 0 and readings and readings[-1].get("done"):
        return readings
    start: Reading = {"t": 0.0, "phase": "start", "rss": 0, "peak": 0}
    raise_failure(code, readings[-1] if readings else start, log, limit)


def raise_failure(code: int, last: Reading, log: str, limit: MemoryLimit | None) -> NoReturn:
    """Raise what a failed run means.

    code: the child's exit code, negative for a signal; last: its last reading; log: its stderr.
    """
    words = f"in {last['phase']}, the last reading was {last['rss'] / MIB:.0f} MiB"
    if limit and (
        limit.was_reached()
        or code == -signal.SIGABRT
        or "alloc" in f"{last.get('error')} {last.get('log')} {log}".lower()
    ):
        raise Infeasible(
            "out_of_memory",
            f"more than {limit.limit / MIB:.0f} MiB are needed ({limit.kind}): {words}",
        )
    kind, _, message = last.get("error", "").partition(": ")
    if kind in ("Infeasible", "Malformed"):
        raise Infeasible("unsupported", f"{message} ({words})")
    if code == -signal.SIGKILL:
        raise Transient(f"the measured process was killed, most likely for want of memory: {words}")
    raise Transient(
        f"the measured process ended with {code}: {last.get('error') or log[-300:] or 'no word'}; "
        f"{words}"
    )


def run_child(order: Order, limit: MemoryLimit | None) -> tuple[int, list[Reading], str]:
    """Run the child to its end; return its exit code, its readings, and what it wrote to stderr."""
    environment = {**os.environ, "SINTRA_PARENT": str(os.getpid())}
    child = subprocess.Popen(
        [sys.executable, "-m", "sintra.probes.memory_child", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout
    first = child.stdout.readline()
    if limit:
        limit.add_process(child.pid)
    rest, log = child.communicate("go\n")
    lines = [x for x in (first + rest).splitlines() if x.startswith("{") and x.endswith("}")]
    return child.returncode, [json.loads(line) for line in lines], log


STAGE = Stage(
    "memory",
    3,
    run,
    ("llama-cpp-python",),
    platform=True,
    metrics=("ram_peak_bytes", "ram_peak_mmap_bytes", *(f"ram_{p}_bytes" for p in PHASES)),
    files=(MEASUREMENTS_FILE, "timeline.json"),
    title="Measure memory",
)
