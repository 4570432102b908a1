"""Speed and memory on a real board: what is measured there replaces what is estimated of it.

The board itself is part of the key: its host key, processor, memory, power mode and runtime.
Metrics: device_tg_tps, device_pp_tps, device_ram_bytes, device_load_s; of the speed run
device_celsius (the highest), device_mhz (the lowest of the slowest core), device_throttled (1 where
the board held its clock down) and device_swapped_bytes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import Any

from sintra.config.options import DeviceConf
from sintra.core import plugins
from sintra.core.errors import Infeasible, Transient
from sintra.core.stage import PROGRESS_MARK, Context, Stage
from sintra.core.types import Measurement
from sintra.hardware.boards.identity import where
from sintra.probes.measurements import write_measurements

MIB = 2**20
# In the words of llama.cpp, C++, Python and the kernel.
OUT_OF_MEMORY = re.compile(
    "(failed|unable|attempted) to allocate|insufficient memory|bad_alloc|MemoryError|out of memory",
    re.I,
)
Run = dict[str, Any]


def run_on_board(context: Context, job: str) -> Run:
    """The job on the board, with its readings in board.json. Raises Infeasible where the board
    can't, with the last reading.
    """
    board, params = (
        context.params["board"],
        {k: v for k, v in context.params.items() if k != "board"},
    )
    options, gguf = (
        DeviceConf(**context.hints["device"]),
        (context.inputs["gguf"] / "model.gguf").resolve(),
    )
    device = plugins.load("devices", options.name)(
        options, lambda text: context.say(PROGRESS_MARK + text)
    )
    params = {"kv": "f16", "limit": None} | params
    found: Run = device.measure({"job": job, **params}, gguf, gguf.name, board)
    check_run(found, where(board), options.timeout_s)
    context.write_json("board.json", found | {"board": board})
    return found


def check_run(found: Run, board: str, timeout_s: float) -> None:
    """Raise what a run's end means, unless it went well."""
    error: Run = next((row for row in found["rows"] if "error" in row), {})
    if found["code"] == 0 and found["rows"] and not error:
        return
    words = f"in {found['phase']} on {board}, the last reading was {found['rss'] / MIB:.0f} MiB"
    if found["late"]:
        raise Transient(
            f"stopped after {timeout_s:g} s, its time limit (device.timeout_s), {words}"
        )
    said = f"{error.get('error', '')} {error.get('log', '')} {found['log']}".strip()
    if found["oom_kills"] or found["code"] == -6 or OUT_OF_MEMORY.search(said):
        raise Infeasible("out_of_memory", f"it doesn't fit the board's memory: {words}")
    last = next((x for x in reversed(said.splitlines()) if x.strip()), "no word")
    if error.get("error", "").startswith("Trouble"):
        raise Infeasible(
            "unsupported", f"{error['error'].removeprefix('Trouble: ')} ({words}): {last}"
        )
    raise Transient(f"the measured process ended with {found['code']}, {words}: {last}")


def measure_speed(context: Context) -> None:
    """pp and tg as the local speed probe takes them, on the board."""
    found = run_on_board(context, "speed")
    protocol = (
        f"{context.params['threads']} threads, median of {context.params['repeat']} after a "
        f"warm-up{doubts(found)}"
    )
    board, counts = (
        where(context.params["board"]),
        {"pp_tps": context.params["prompt"], "tg_tps": context.params["generate"]},
    )
    rows = []
    for row in (r for r in found["rows"] if "metric" in r):
        rates = row["rates"]
        error = statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None
        rows.append(
            Measurement(
                f"device_{row['metric']}",
                statistics.median(rates),
                "tokens/s",
                "measured",
                error,
                len(rates),
                min(rates),
                max(rates),
                board,
                f"{counts[row['metric']]} tokens, {protocol}",
            )
        )
    write_measurements(context, [*rows, *condition_measurements(found, board, "speed")])


def measure_memory(context: Context) -> None:
    """Peak memory of a process that loads without mmap, reads the context and generates, on the
    board.
    """
    found = run_on_board(context, "memory")
    board, how = where(context.params["board"]), "of the process"
    own: Run = next((r for r in found["rows"] if "peak" in r), {})
    size = found["peak"]
    if (
        own.get("gpu") and found["system"] > size
    ):  # where card and processor share the memory, a process's own size leaves it out
        size, how = found["system"], "by which the board's available memory fell"
    protocol = (
        f"bytes {how}, context {context.params['context']}, {context.params.get('kv', 'f16')} "
        f"cache, no mmap{doubts(found)}"
    )
    rows = [
        Measurement(
            "device_ram_bytes", float(size), "bytes", "measured", where=board, protocol=protocol
        )
    ]
    if "load_s" in own:
        rows.append(
            Measurement(
                "device_load_s", own["load_s"], "s", "measured", where=board, protocol="no mmap"
            )
        )
    write_measurements(context, [*rows, *condition_measurements(found, board, "memory")])


def doubts(found: Run) -> str:
    """What makes a measurement doubtful, in words."""
    hot = f"; the board throttled ({', '.join(found['throttled'])})" if found["throttled"] else ""
    return hot + (
        f"; the board swapped {found['swapped'] / MIB:.0f} MiB" if found["swapped"] else ""
    )


def condition_measurements(found: Run, board: str, job: str) -> Iterator[Measurement]:
    """Heat, clock, throttling and swapping while it ran; of the speed run where both have one."""
    if job != "speed":
        if found["swapped"]:
            yield Measurement(
                "device_ram_swapped_bytes", found["swapped"], "bytes", "measured", where=board
            )
        return
    for name, value, unit in (
        ("device_celsius", found["celsius"], "C"),
        ("device_mhz", found["mhz"], "MHz"),
        ("device_throttled", float(bool(found["throttled"])), "1"),
        ("device_swapped_bytes", found["swapped"], "bytes"),
    ):
        if value is not None:
            yield Measurement(name, value, unit, "measured", where=board)


SPEED_METRICS = (
    "device_tg_tps",
    "device_pp_tps",
    "device_celsius",
    "device_mhz",
    "device_throttled",
    "device_swapped_bytes",
)
SPEED = Stage("device_speed", 1, measure_speed, resource="light", metrics=SPEED_METRICS)
MEMORY = Stage(
    "device_memory",
    1,
    measure_memory,
    resource="light",
    metrics=("device_ram_bytes", "device_load_s", "device_ram_swapped_bytes"),
)
