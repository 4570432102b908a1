"""Run a job on the board: Python 3.9 or later, nothing but the standard library.

It reads a job as one JSON line on stdin and answers in JSON lines on stdout; the last has "end".
stdin stays open while somebody listens: when it closes, everything that was started is killed, so
that a lost connection leaves nothing running.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

PERIOD_S = 0.02  # between readings of a process's memory, seconds
PROGRESS_S = 1.0  # between lines of progress, seconds
SLOW_S = 2.0  # between readings of heat, clock and swapping, seconds
LAST = 16  # tokens that a memory job generates
CPUS, THERMAL = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal")
CHILDREN: list[subprocess.Popen[str]] = []


class Runtime(TypedDict):
    """What runs models on the board."""

    kind: str  # llama-cpp-python, llama-bench, or "" where there is neither
    version: str  # or the first 12 hex digits of llama-bench's SHA-256
    path: str  # of llama-bench; "" for the library


class BoardDescription(TypedDict):
    """What the board says of itself."""

    board: str  # the device tree's model; "" on a PC
    cpu: str  # the processor's name
    architecture: str  # as `uname -m` has it
    cores: int  # that a process may use
    memory: int  # RAM, bytes
    limit: int | None  # the least memory limit of a process, bytes
    mode: str  # governor and power mode
    runtime: Runtime


class BoardIdentity(BoardDescription):
    """What a board is: part of the key of every measurement on it."""

    host_key: str  # fingerprint, which the caller adds


class MachineJob(TypedDict):
    """Ask what the board is."""

    job: str  # "machine"
    bench: str  # path of a llama-bench, used instead of the library; "": none


class HashJob(TypedDict):
    """Ask for a file's SHA-256."""

    job: str  # "hash"
    path: str


class RoomJob(TypedDict):
    """Ask for room on the disk."""

    job: str  # "room"
    folder: str  # whose files may be removed
    bytes: int  # that are needed
    keep: str  # files that begin so stay


class MeasureJob(TypedDict, total=False):
    """Ask for a measurement of a model."""

    job: str  # "speed" or "memory"
    gguf: str  # path of the model
    threads: int
    kv: str  # type of the KV cache
    gpu_layers: int | None  # None: all where the runtime has a GPU
    limit: int | None  # of the memory that the process may add, bytes
    timeout_s: float  # seconds
    lock: str  # path of the file that only one measurement at a time may lock
    runtime: Runtime
    child: str  # path of child.py
    prompt: int  # of a speed job: tokens that are read
    generate: int  # of a speed job: tokens that are generated
    repeat: int  # of a speed job: repetitions
    context: int  # of a memory job: tokens that are read and generated


class MeasuredRow(TypedDict, total=False):
    """One line of what a measurement says: a speed, a memory, or an error."""

    metric: str  # pp_tps or tg_tps
    rates: list[float]  # tokens/s of each repetition
    build: str  # llama-bench's commit
    gpu: bool  # whether a GPU had a part in it
    peak: int  # resident bytes
    load_s: float  # loading, seconds
    error: str  # "TYPE: what went wrong"
    log: str  # llama.cpp's last warnings


class RunSummary(TypedDict):
    """What watching a process showed."""

    phase: str  # start, load, prefill, decode, or the metric
    rss: int  # last reading, resident bytes
    peak: int  # resident bytes
    system: int  # by how much the machine's available memory fell, bytes
    celsius: float | None  # the hottest reading
    mhz: float | None  # the slowest core's lowest clock
    throttled: list[str]  # signs that the clock was held down
    swapped: int  # bytes
    oom_kills: int  # processes that the kernel ended meanwhile
    seconds: float  # of the run


class RunResult(RunSummary):
    """The answer to a measurement's job."""

    rows: list[MeasuredRow]
    code: int  # exit code
    late: bool  # whether the time limit ended it
    log: str  # the end of stderr


def send_line(**line: Any) -> None:
    """Write a line of JSON to whoever listens."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def read_text(path: Path | str) -> str:
    """Read a file; "" where that can't be done."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return ""


def read_number(path: Path | str) -> int | None:
    """Read a file's whole number, or None."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdigit() else None


def process_memory(pid: int) -> dict[str, int]:
    """Return the memory lines of /proc/PID/status, bytes by name."""
    lines = re.findall(r"^(Vm\w+):\s+(\d+) kB", read_text(f"/proc/{pid}/status"), re.M)
    return {name: int(kib) * 1024 for name, kib in lines}


def kernel_counters() -> tuple[int, int]:
    """Return the bytes swapped in and out, and the processes ended for want of memory."""
    text = read_text("/proc/vmstat")
    counters = dict(re.findall(r"^(pswpin|pswpout|oom_kill) (\d+)$", text, re.M))
    pages = int(counters.get("pswpin", 0)) + int(counters.get("pswpout", 0))
    return pages * resource.getpagesize(), int(counters.get("oom_kill", 0))


def available_memory() -> int:
    """Return the bytes of memory that are free or can be freed."""
    match = re.search(r"^MemAvailable:\s+(\d+)", read_text("/proc/meminfo"), re.M)
    return int(match.group(1)) * 1024 if match else 0


def highest_temperature() -> float | None:
    """Return the hottest thermal zone, Celsius."""
    readings = (read_number(p) for p in THERMAL.glob("thermal_zone*/temp"))
    millidegrees = [n for n in readings if n is not None]
    return max(millidegrees) / 1000 if millidegrees else None


def lowest_clock() -> float | None:
    """Return the slowest core's clock now, MHz."""
    readings = (read_number(p) for p in CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    khz = [n for n in readings if n]
    return min(khz) / 1000 if khz else None


def throttling_signs() -> dict[str, int]:
    """Return {sign: value} of all that says that the board holds its clock down.

    A value that rises means that it did. cpu: Intel's counters of thermal events; vcgencmd: the
    bits of `vcgencmd get_throttled`
    (raspberrypi.com/documentation/computers/os.html#vcgencmd); the state of each cooling device of
    a processor (kernel.org, driver-api/thermal/sysfs-api).
    """
    counters = CPUS.glob("cpu*/thermal_throttle/*_throttle_count")
    signs = {"cpu": sum(read_number(p) or 0 for p in counters)}
    if shutil.which("vcgencmd"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
            signs.update(_vcgencmd_bits())
    for device in THERMAL.glob("cooling_device*"):
        kind = read_text(device / "type")
        if re.search("cpu|processor|devfreq|gpu", kind, re.I):
            signs[f"{kind} {device.name[14:]}"] = read_number(device / "cur_state") or 0
    return signs


def _vcgencmd_bits() -> dict[str, int]:
    """Return the bits of `vcgencmd get_throttled`. Raises OSError, TimeoutExpired, ValueError."""
    command = ["vcgencmd", "get_throttled"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=False)
    bits = int(done.stdout.strip().partition("=")[2], 16)
    return {f"vcgencmd bit {b}": bits >> b & 1 for b in (0, 1, 2, 3, 16, 17, 18, 19)}


def memory_limit() -> int | None:
    """Return the least memory limit that a process has here, bytes."""
    softs = (resource.getrlimit(r)[0] for r in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits = [soft for soft in softs if soft != resource.RLIM_INFINITY]
    group = read_text("/proc/self/cgroup").rpartition("::")[2].strip("/")
    for folder in (f"/sys/fs/cgroup/{group}", "/sys/fs/cgroup"):
        most = read_number(f"{folder}/memory.max")
        if most is not None:
            limits.append(most)
    return min(limits, default=None)


def usable_cores() -> int:
    """Return how many cores a process may use here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_runtime(bench: str) -> Runtime:
    """Return what runs models here.

    A llama-bench that is asked for comes first, then this Python's library, then a llama-bench in
    PATH.
    """
    from importlib import metadata  # for this job only

    version, path = "", shutil.which(str(Path(bench or "llama-bench").expanduser())) or ""
    with contextlib.suppress(metadata.PackageNotFoundError):
        version = metadata.version("llama-cpp-python")
    if version and not bench:
        return {"kind": "llama-cpp-python", "version": version, "path": ""}
    if path:
        return {"kind": "llama-bench", "version": hash_file(path)[:12], "path": path}
    return {"kind": "", "version": "", "path": ""}


def describe_board(job: MachineJob) -> BoardDescription:
    """Return what this board is, and what runs models on it."""
    cpu = re.search(r"^model name\s*: (.*)$", read_text("/proc/cpuinfo"), re.M)
    total = re.search(r"^MemTotal:\s+(\d+)", read_text("/proc/meminfo"), re.M)
    mode_files = (CPUS / "cpu0/cpufreq/scaling_governor", Path("/var/lib/nvpmodel/status"))
    return {
        "board": read_text("/proc/device-tree/model"),
        "cpu": cpu.group(1) if cpu else os.uname().machine,
        "architecture": os.uname().machine,
        "cores": usable_cores(),
        "memory": int(total.group(1)) * 1024 if total else 0,
        "limit": memory_limit(),
        "mode": " ".join(mode for path in mode_files if (mode := read_text(path))),
        "runtime": find_runtime(job["bench"]),
    }


def hash_file(path: str) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def answer_hash(job: HashJob) -> dict[str, str]:
    """Return a file's SHA-256 as an answer."""
    return {"sha256": hash_file(job["path"])}


def make_room(job: RoomJob) -> dict[str, int]:
    """Make room on the disk by removing our own files, the oldest first, but not `keep`.

    The answer: bytes that are free, files that were removed.
    """
    folder, removed = Path(job["folder"]), 0
    others = (p for p in folder.iterdir() if not p.name.startswith(job["keep"]))
    for path in sorted(others, key=lambda p: p.stat().st_mtime):
        if shutil.disk_usage(folder).free > job["bytes"]:
            break
        path.unlink()
        removed += 1
    return {"free": shutil.disk_usage(folder).free, "removed": removed}


class ProcessWatch:
    """Follow a process: its memory all the time; heat, clock and swapping now and then."""

    def __init__(self, pid: int, available: int) -> None:
        """Begin. available: bytes of the machine's memory before the process started."""
        self.pid, self.phase, self.start = pid, "start", time.monotonic()
        self.last_line = self.last_slow = 0.0  # when, by the same clock
        self.rss = self.peak = self.swapped = 0  # of the process, bytes
        self.celsius: list[float] = []
        self.mhz: list[float] = []
        self.signs: set[str] = set()  # of throttling
        self.signs_before = throttling_signs()
        self.swapped_before, self.kills_before = kernel_counters()
        self.available_before = self.least_available = available  # bytes
        self.ended = threading.Event()

    def follow(self) -> None:
        """Read until the end, and send a line once a second."""
        while not self.ended.wait(PERIOD_S):
            memory = process_memory(self.pid)
            self.rss = memory.get("VmRSS", self.rss)
            self.peak = max(self.peak, memory.get("VmHWM", 0))
            self.swapped = max(self.swapped, memory.get("VmSwap", 0))
            now = time.monotonic()
            if now - self.last_slow > SLOW_S:
                self.last_slow = now
                self.read_slow_sensors()
            if now - self.last_line > PROGRESS_S:
                self.last_line = now
                self.send_progress(now)

    def send_progress(self, now: float) -> None:
        """Send the last readings."""
        send_line(
            t=round(now - self.start, 2),
            phase=self.phase,
            rss=self.rss,
            celsius=self.celsius[-1] if self.celsius else None,
            mhz=self.mhz[-1] if self.mhz else None,
        )

    def read_slow_sensors(self) -> None:
        """Read what takes longer: heat, clock, available memory and throttling."""
        for readings, now in (
            (self.celsius, highest_temperature()),
            (self.mhz, lowest_clock()),
        ):
            if now is not None:
                readings.append(now)
        self.least_available = min(self.least_available, available_memory())
        for sign, value in throttling_signs().items():
            is_now = re.match(r"vcgencmd bit [0-3]$", sign) and value
            if value > self.signs_before.get(sign, 0) or is_now:
                self.signs.add(sign)

    def summary(self) -> RunSummary:
        """Return the whole run in numbers."""
        self.read_slow_sensors()
        swapped, kills = kernel_counters()
        return {
            "phase": self.phase,
            "rss": self.rss,
            "peak": self.peak,
            "system": self.available_before - self.least_available,
            "celsius": max(self.celsius, default=None),
            "mhz": min(self.mhz, default=None),
            "throttled": sorted(self.signs),
            "swapped": max(swapped - self.swapped_before, self.swapped),
            "oom_kills": kills - self.kills_before,
            "seconds": round(time.monotonic() - self.start, 2),
        }


def measure_command(job: MeasureJob) -> list[str]:
    """Return the command of a measurement: our child with the library, or the llama-bench."""
    if job["runtime"]["kind"] == "llama-cpp-python":
        return [sys.executable, "-u", job["child"], json.dumps(job)]
    return bench_command(job)


def bench_command(job: MeasureJob) -> list[str]:
    """Return the command of a measurement by llama-bench."""
    bench, kv, mapped = job["runtime"]["path"], job["kv"], job["job"] == "speed"
    if mapped:
        sizes = ["-p", job["prompt"], "-n", job["generate"], "-r", job["repeat"]]
    else:  # one test that reads the context but a few tokens, and generates those
        sizes = ["-p", 0, "-n", 0, "-pg", f"{job['context'] - LAST},{LAST}", "-r", 1]
    options = ["-m", job["gguf"], *sizes, "-t", job["threads"], "-o", "json", "-v"]
    keys, _, values = kv.partition("/")
    options += ["-ctk", keys, "-ctv", values or keys]
    if "--load-mode" in read_bench_help(bench):
        options += ["-lm", "mmap" if mapped else "none"]
    else:
        options += ["-mmp", int(mapped)]
    if job["gpu_layers"] is not None:
        options += ["-ngl", job["gpu_layers"]]
    if kv != "f16":
        options += ["-fa", 1]
    limited = []
    if job["limit"] is not None:
        limited = ["sh", "-c", f'ulimit -d {job["limit"] // 1024} && exec "$0" "$@"']
    return [*limited, bench, *map(str, options)]


def read_bench_help(bench: str) -> str:
    """Return what a llama-bench says of its options: -mmp became -lm in 2026."""
    done = subprocess.run(
        [bench, "--help"], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return done.stdout + done.stderr


def run_measurement(job: MeasureJob) -> RunResult:
    """Run the job's command under watch, alone among the runs that use its lock."""
    with Path(job["lock"]).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            send_line(say="waits for another measurement on this board")
            fcntl.flock(lock, fcntl.LOCK_EX)
        return run_watched(job, measure_command(job))


def run_watched(job: MeasureJob, argv: list[str]) -> RunResult:
    """Run a command to its end or its time limit, and return what it said and what was seen."""
    available = available_memory()
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    CHILDREN.append(child)
    out, err = child.stdout, child.stderr
    assert out
    assert err
    watch = ProcessWatch(child.pid, available)
    log: list[str] = []
    listener = threading.Thread(target=lambda: log.extend(err), daemon=True)
    timer = threading.Timer(job["timeout_s"], kill_children)
    timer.daemon = True
    for thread in (listener, timer, threading.Thread(target=watch.follow, daemon=True)):
        thread.start()
    is_bench = job["runtime"]["kind"] == "llama-bench"
    rows = parse_bench_rows(out.read()) if is_bench else read_child_rows(out, watch)
    code = child.wait()
    late = not timer.is_alive()
    timer.cancel()
    watch.ended.set()
    listener.join(2)
    watch.peak = max([watch.peak, *(row["peak"] for row in rows if "peak" in row)])
    return {
        "rows": rows,
        "code": code,
        "late": late,
        "log": "".join(log)[-2000:],
        **watch.summary(),
    }


def read_child_rows(lines: Iterable[str], watch: ProcessWatch) -> list[MeasuredRow]:
    """Return our child's rows; its phases go to the watch."""
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            watch.phase = row.pop("phase", watch.phase)
            rows += [row] if row else []
    return rows


def parse_bench_rows(output: str) -> list[MeasuredRow]:
    """Return llama-bench's JSON (-o json) as rows; empty where it wrote none."""
    rows: list[MeasuredRow] = []
    with contextlib.suppress(ValueError):
        for test in json.loads(output[output.index("[") :]):
            rows.append(
                {
                    "metric": "pp_tps" if test["n_prompt"] else "tg_tps",
                    "rates": test["samples_ts"],
                    "build": test.get("build_commit", ""),
                }
            )
    return rows


def kill_children() -> None:
    """End every child with all that it started."""
    for child in CHILDREN:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


def exit_when_stdin_closes() -> None:
    """Wait until nobody listens any more, then end everything."""
    while os.read(0, 4096):
        pass
    kill_children()
    os._exit(1)


JOBS: dict[str, Callable[[Any], Any]] = {
    "machine": describe_board,
    "hash": answer_hash,
    "room": make_room,
}


def run_job() -> int:
    """Run the job on stdin, and return the exit code."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as listener:
        job = json.loads(listener.readline())
    threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
    send_line(end=JOBS.get(job["job"], run_measurement)(job))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_job())
