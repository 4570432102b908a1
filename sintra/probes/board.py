"""Measure speed and memory on a real board: the results replace what is estimated of it.

The board itself is part of the key: its host key, processor, memory, power mode and runtime.
Metrics: device_tg_tps, device_pp_tps, device_ram_bytes, device_load_s; of the speed run
device_celsius (the highest), device_mhz (the lowest of the slowest core), device_throttled (1 where
the board held its clock down) and device_swapped_bytes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import TypedDict

from sintra.config.options import DeviceConf
from sintra.core import plugins
from sintra.core.errors import Infeasible, Transient
from sintra.core.stage import PROGRESS_MARK, Context, Stage
from sintra.core.types import Measurement
from sintra.hardware.boards.identity import board_label
from sintra.probes.measurements import MEASUREMENTS_FILE, write_measurements
from sintra.probes.timing import standard_error

MIB = 2**20
# In the words of llama.cpp, C++, Python and the kernel.
OUT_OF_MEMORY = re.compile(
    "(failed|unable|attempted) to allocate|insufficient memory|bad_alloc|MemoryError|out of memory",
    re.I,
)


class BoardRow(TypedDict, total=False):
    """A line of the measured process's output."""

    metric: str  # of a speed run: "pp_tps" or "tg_tps"
    rates: list[float]  # tokens per second of each run
    peak: int  # of a memory run: most resident bytes
    gpu: bool  # whether a GPU holds layers
    load_s: float  # seconds to load the model
    error: str  # class and text of the exception
    log: str  # the last messages of llama.cpp


class BoardRun(TypedDict):
    """A job's outcome on a board, as sintra.hardware.boards.runner reports it."""

    rows: list[BoardRow]
    code: int  # exit code of the measured process, negative for a signal
    late: bool  # whether it was stopped by its time limit
    log: str  # the end of its output
    phase: str  # what it did last
    rss: int  # last reading of the resident size, bytes
    peak: int  # most resident bytes
    system: int  # by how many bytes the board's available memory fell
    celsius: float | None  # the highest temperature
    mhz: float | None  # the lowest clock of the slowest core
    throttled: list[str]  # signs that the board held its clock down
    swapped: float  # bytes
    oom_kills: int  # processes that the kernel ended because memory was short


def run_on_board(context: Context, job: str) -> BoardRun:
    """Run a job ("speed" or "memory") on the board and write its outcome to board.json.

    Raises Infeasible where the board cannot run it, with the last reading; Transient where the run
    failed for another reason.
    """
    board = context.params["board"]
    params = {"kv": "f16", "limit": None} | {
        k: v for k, v in context.params.items() if k != "board"
    }
    options = DeviceConf(**context.hints["device"])
    gguf = (context.inputs["gguf"] / "model.gguf").resolve()
    device = plugins.load("devices", options.name)(
        options, lambda text: context.say(PROGRESS_MARK + text)
    )
    outcome: BoardRun = device.measure({"job": job, **params}, gguf, gguf.name, board)
    check_run(outcome, board_label(board), options.timeout_s)
    context.write_json("board.json", {**outcome, "board": board})
    return outcome


def check_run(outcome: BoardRun, board: str, timeout_s: float) -> None:
    """Check that a run went well.

    board: its name; timeout_s: its time limit in seconds. Raises Infeasible or Transient by what
    went wrong.
    """
    error = next((row for row in outcome["rows"] if "error" in row), BoardRow())
    if outcome["code"] == 0 and outcome["rows"] and not error:
        return
    words = f"in {outcome['phase']} on {board}, the last reading was {outcome['rss'] / MIB:.0f} MiB"
    if outcome["late"]:
        raise Transient(
            f"stopped after {timeout_s:g} s, its time limit (device.timeout_s), {words}"
        )
    log = f"{error.get('error', '')} {error.get('log', '')} {outcome['log']}".strip()
    if outcome["oom_kills"] or outcome["code"] == -6 or OUT_OF_MEMORY.search(log):
        raise Infeasible("out_of_memory", f"it doesn't fit the board's memory: {words}")
    last = next((x for x in reversed(log.splitlines()) if x.strip()), "no word")
    if error.get("error", "").startswith("LlamaCppError"):
        raise Infeasible(
            "unsupported", f"{error['error'].removeprefix('LlamaCppError: ')} ({words}): {last}"
        )
    raise Transient(f"the measured process ended with {outcome['code']}, {words}: {last}")


def measure_speed(context: Context) -> None:
    """Write measurements.json: pp and tg on the board, as the local speed probe takes them."""
    outcome = run_on_board(context, "speed")
    board = board_label(context.params["board"])
    protocol = (
        f"{context.params['threads']} threads, median of {context.params['repeat']} after a "
        f"warm-up{doubts(outcome)}"
    )
    tokens = {"pp_tps": context.params["prompt"], "tg_tps": context.params["generate"]}
    measurements = [
        Measurement(
            f"device_{row['metric']}",
            statistics.median(row["rates"]),
            "tokens/s",
            "measured",
            standard_error(row["rates"]),
            len(row["rates"]),
            min(row["rates"]),
            max(row["rates"]),
            board,
            f"{tokens[row['metric']]} tokens, {protocol}",
        )
        for row in outcome["rows"]
        if "metric" in row
    ]
    write_measurements(context, [*measurements, *speed_conditions(outcome, board)])


def measure_memory(context: Context) -> None:
    """Write measurements.json: a process's peak memory and its load time on the board.

    The process loads without mmap, reads the context and generates.
    """
    outcome = run_on_board(context, "memory")
    board = board_label(context.params["board"])
    child = next((r for r in outcome["rows"] if "peak" in r), BoardRow())
    size, subject = outcome["peak"], "of the process"
    # where card and processor share the memory, a process's own size leaves the card's part out
    if child.get("gpu") and outcome["system"] > size:
        size, subject = outcome["system"], "by which the board's available memory fell"
    protocol = (
        f"bytes {subject}, context {context.params['context']}, {context.params.get('kv', 'f16')} "
        f"cache, no mmap{doubts(outcome)}"
    )
    measurements = [
        Measurement(
            "device_ram_bytes", float(size), "bytes", "measured", where=board, protocol=protocol
        )
    ]
    if "load_s" in child:
        measurements.append(
            Measurement(
                "device_load_s", child["load_s"], "s", "measured", where=board, protocol="no mmap"
            )
        )
    if outcome["swapped"]:
        measurements.append(
            Measurement(
                "device_ram_swapped_bytes", outcome["swapped"], "bytes", "measured", where=board
            )
        )
    write_measurements(context, measurements)


def doubts(outcome: BoardRun) -> str:
    """Return what makes a measurement doubtful, as the end of a protocol."""
    hot, swapped = outcome["throttled"], outcome["swapped"]
    text = f"; the board throttled ({', '.join(hot)})" if hot else ""
    return text + (f"; the board swapped {swapped / MIB:.0f} MiB" if swapped else "")


def speed_conditions(outcome: BoardRun, board: str) -> Iterator[Measurement]:
    """Yield temperature, clock, throttling and swapping of a speed run, where they are known."""
    for name, value, unit in (
        ("device_celsius", outcome["celsius"], "C"),
        ("device_mhz", outcome["mhz"], "MHz"),
        ("device_throttled", float(bool(outcome["throttled"])), "1"),
        ("device_swapped_bytes", outcome["swapped"], "bytes"),
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
SPEED = Stage(
    "device_speed",
    1,
    measure_speed,
    resource="light",
    metrics=SPEED_METRICS,
    files=(MEASUREMENTS_FILE,),
)
MEMORY = Stage(
    "device_memory",
    1,
    measure_memory,
    resource="light",
    metrics=("device_ram_bytes", "device_load_s", "device_ram_swapped_bytes"),
    files=(MEASUREMENTS_FILE,),
)
