"""Memory over load, prefill and decode of the study's context, with mmap off and on, each in a
process of its own.

With a limit (goal.enforce_memory: the device's usable RAM) the run without mmap is put under it,
and its end proves whether the artifact fits. The process's own size before the model is loaded
doesn't count against the limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from sintra.core.errors import Infeasible, Transient
from sintra.core.stage import Context, Stage, machine
from sintra.core.types import Measurement
from sintra.hardware.memory_limit import Fence, fence
from sintra.probes.measurements import write_measurements

MIB = 2**20
PHASES = ("load", "prefill", "decode")
Line = dict[str, Any]


def run(context: Context) -> None:
    """Measure twice; the readings stand in timeline.json."""
    limit = context.params.get("limit")
    if limit is None:
        plain = measure_child(context, False, None)
        how = "no mmap"
    else:
        with fence(limit) as around:
            plain = measure_child(context, False, around)
            how = f"no mmap, under a {around.kind} of {limit / MIB:.0f} MiB"
    mapped = measure_child(context, True, None)
    context.write_json("timeline.json", {"no_mmap": plain, "mmap": mapped, "limit": limit})
    write_measurements(context, list(peak_measurements(context.params, plain, mapped, how)))


def peak_measurements(
    params: dict[str, Any], plain: list[Line], mapped: list[Line], how: str
) -> Iterator[Measurement]:
    """The peaks: whole, by phase, and with mmap."""
    size, kv = params["context"], params.get("kv", "f16")
    protocol = f"context {size}, {kv} cache, {how}, {plain[0]['rss'] / MIB:.0f} MiB before loading"
    yield Measurement(
        "ram_peak_bytes", peak_bytes(plain), "bytes", "measured", where=machine(), protocol=protocol
    )
    for phase in PHASES:
        held = max(line["rss"] for line in plain if line["phase"] == phase)
        yield Measurement(
            f"ram_{phase}_bytes", held, "bytes", "measured", where=machine(), protocol=protocol
        )
    protocol = f"context {size}, {kv} cache, mmap, {mapped[0]['rss'] / MIB:.0f} MiB before loading"
    yield Measurement(
        "ram_peak_mmap_bytes",
        peak_bytes(mapped),
        "bytes",
        "measured",
        where=machine(),
        protocol=protocol,
    )


def peak_bytes(lines: list[Line]) -> float:
    """The peak: the kernel's own, which counts in batches a thread, or a reading above it."""
    return max(float(max(line["rss"], line["peak"])) for line in lines)


def measure_child(context: Context, mmap: bool, around: Fence | None) -> list[Line]:
    """The readings of one run. Raises Infeasible with the last reading where the limit was too
    tight for it.
    """
    rlimit = around.limit if around and around.kind == "rlimit" else None
    order = {
        "gguf": str(context.inputs["gguf"] / "model.gguf"),
        "context": context.params["context"],
        "mmap": mmap,
        "kv": context.params.get("kv", "f16"),
        "threads": context.threads,
        "rlimit": rlimit,
    }
    code, lines, log = run_child(order, around)
    last: Line = lines[-1] if lines else {"phase": "start", "rss": 0, "peak": 0}
    if code == 0 and last.get("done"):
        return lines
    words = f"in {last['phase']}, the last reading was {last['rss'] / MIB:.0f} MiB"
    if around and (
        around.struck()
        or code == -signal.SIGABRT
        or "alloc" in f"{last.get('error')} {last.get('log')} {log}".lower()
    ):
        raise Infeasible(
            "out_of_memory",
            f"more than {around.limit / MIB:.0f} MiB are needed ({around.kind}): {words}",
        )
    kind, _, said = last.get("error", "").partition(": ")
    if kind in ("Infeasible", "Malformed"):
        raise Infeasible("unsupported", f"{said} ({words})")
    if code == -signal.SIGKILL:
        raise Transient(f"the measured process was killed, most likely for want of memory: {words}")
    raise Transient(
        f"the measured process ended with {code}: {last.get('error') or log[-300:] or 'no word'}; "
        f"{words}"
    )


def run_child(order: Line, around: Fence | None) -> tuple[int, list[Line], str]:
    """Run the child to its end: exit code, its lines, and what it wrote to stderr."""
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
    if around:
        around.admit(child.pid)
    out, err = child.communicate("go\n")
    return (
        child.returncode,
        [
            json.loads(x)
            for x in (first + out).splitlines()
            if x.startswith("{") and x.endswith("}")
        ],
        err,
    )


STAGE = Stage(
    "memory",
    3,
    run,
    ("llama-cpp-python",),
    platform=True,
    metrics=("ram_peak_bytes", "ram_peak_mmap_bytes", *(f"ram_{p}_bytes" for p in PHASES)),
)
