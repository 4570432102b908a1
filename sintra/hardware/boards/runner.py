"""What runs on the board: Python 3.9 or later, nothing but the standard library.

It reads a job as one JSON line on stdin and answers in JSON lines on stdout; the last has "end".
stdin stays open while somebody listens: when it closes, everything that was started is killed, so
that a lost connection leaves nothing running.

Jobs: {"job": "machine", "bench"}; {"job": "hash", "path"}; {"job": "room", "bytes", "folder",
"keep"}; {"job": "speed" or "memory", "gguf", "threads", "kv", "gpu_layers", "timeout_s", "lock",
"runtime", "child", ...}. Sizes in bytes, temperatures in Celsius, clocks in MHz, times in seconds.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

PERIOD_S, TELL_S, SLOW_S, LAST = 0.02, 1.0, 2.0, 16
CPUS, THERMAL = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal")
CHILDREN: list[subprocess.Popen[str]] = []


def tell(**line: Any) -> None:
    """A line to whoever listens."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def text(path: Path | str) -> str:
    """A file's text; "" where it can't be read."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return ""


def number(path: Path | str) -> int | None:
    """A file's whole number, or None."""
    found = text(path)
    return int(found) if found.lstrip("-").isdigit() else None


def status(pid: int) -> dict[str, int]:
    """The memory lines of /proc/PID/status in bytes."""
    return {
        k: int(v) * 1024
        for k, v in re.findall(r"^(Vm\w+):\s+(\d+) kB", text(f"/proc/{pid}/status"), re.M)
    }


def vmstat() -> tuple[int, int]:
    """The kernel's counters: bytes swapped in and out, and processes that it ended for want of
    memory.
    """
    found = dict(re.findall(r"^(pswpin|pswpout|oom_kill) (\d+)$", text("/proc/vmstat"), re.M))
    pages = int(found.get("pswpin", 0)) + int(found.get("pswpout", 0))
    return pages * resource.getpagesize(), int(found.get("oom_kill", 0))


def available() -> int:
    """Bytes of memory that are free or can be freed."""
    found = re.search(r"^MemAvailable:\s+(\d+)", text("/proc/meminfo"), re.M)
    return int(found.group(1)) * 1024 if found else 0


def heat() -> float | None:
    """The hottest thermal zone."""
    found = [n for p in THERMAL.glob("thermal_zone*/temp") if (n := number(p)) is not None]
    return max(found) / 1000 if found else None


def clock() -> float | None:
    """The slowest core's clock now."""
    found = [n for p in CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq") if (n := number(p))]
    return min(found) / 1000 if found else None


def throttling() -> dict[str, int]:
    """{sign: value} of all that says that the board holds its clock down; a value that rises means
    that it did.

    vcgencmd: the bits of `vcgencmd get_throttled`
    (raspberrypi.com/documentation/computers/os.html#vcgencmd); cpu: Intel's counters of thermal
    events; the state of each cooling device of a processor (kernel.org,
    driver-api/thermal/sysfs-api).
    """
    found = {
        "cpu": sum(number(p) or 0 for p in CPUS.glob("cpu*/thermal_throttle/*_throttle_count"))
    }
    if shutil.which("vcgencmd"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
            said = subprocess.run(
                ["vcgencmd", "get_throttled"],
                capture_output=True,
                text=True,
                timeout=2,
                check=False,
            ).stdout
            bits = int(said.strip().partition("=")[2], 16)
            found.update({f"vcgencmd bit {b}": bits >> b & 1 for b in (0, 1, 2, 3, 16, 17, 18, 19)})
    for device in THERMAL.glob("cooling_device*"):
        if re.search("cpu|processor|devfreq|gpu", kind := text(device / "type"), re.I):
            found[f"{kind} {device.name[14:]}"] = number(device / "cur_state") or 0
    return found


def limit() -> int | None:
    """The least memory limit that a process here has."""
    found = [
        s
        for r in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
        if (s := resource.getrlimit(r)[0]) != resource.RLIM_INFINITY
    ]
    group = text("/proc/self/cgroup").rpartition("::")[2].strip("/")
    for folder in (f"/sys/fs/cgroup/{group}", "/sys/fs/cgroup"):
        if (most := number(f"{folder}/memory.max")) is not None:
            found.append(most)
    return min(found, default=None)


def cores() -> int:
    """How many cores a process may use here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def runtime(wanted: str) -> dict[str, str]:
    """{"kind": "llama-cpp-python" or "llama-bench", "version", "path"}; kind "" where there is
    neither.

    A llama-bench that is asked for comes first, then this Python's library, then a llama-bench in
    PATH.
    """
    from importlib import metadata

    version, path = "", shutil.which(str(Path(wanted or "llama-bench").expanduser())) or ""
    with contextlib.suppress(metadata.PackageNotFoundError):
        version = metadata.version("llama-cpp-python")
    if version and not wanted:
        return {"kind": "llama-cpp-python", "version": version, "path": ""}
    if path:
        return {"kind": "llama-bench", "version": digest(path)[:12], "path": path}
    return {"kind": "", "version": "", "path": ""}


def machine(job: dict[str, Any]) -> dict[str, Any]:
    """What this board is, and what runs models on it."""
    cpu = re.search(r"^model name\s*: (.*)$", text("/proc/cpuinfo"), re.M)
    total = re.search(r"^MemTotal:\s+(\d+)", text("/proc/meminfo"), re.M)
    modes = [
        text(p) for p in (CPUS / "cpu0/cpufreq/scaling_governor", Path("/var/lib/nvpmodel/status"))
    ]
    return {
        "board": text("/proc/device-tree/model"),
        "cpu": cpu.group(1) if cpu else os.uname().machine,
        "architecture": os.uname().machine,
        "cores": cores(),
        "memory": int(total.group(1)) * 1024 if total else 0,
        "limit": limit(),
        "mode": " ".join(m for m in modes if m),
        "runtime": runtime(job["bench"]),
    }


def digest(path: str) -> str:
    """Hex SHA-256 of a file."""
    whole = hashlib.sha256()
    with Path(path).open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            whole.update(block)
    return whole.hexdigest()


def room(job: dict[str, Any]) -> dict[str, int]:
    """Make room for so many bytes on the disk by removing files of ours, the oldest first, but not
    `keep`.
    """
    folder, removed = Path(job["folder"]), 0
    for path in sorted(
        (p for p in folder.iterdir() if not p.name.startswith(job["keep"])),
        key=lambda p: p.stat().st_mtime,
    ):
        if shutil.disk_usage(folder).free > job["bytes"]:
            break
        path.unlink()
        removed += 1
    return {"free": shutil.disk_usage(folder).free, "removed": removed}


class Watch:
    """Follows a process: its memory all the time; heat, clock and swapping now and then."""

    def __init__(self, pid: int, free: int) -> None:
        self.pid, self.phase, self.start, self.told, self.slow = (
            pid,
            "start",
            time.monotonic(),
            0.0,
            0.0,
        )
        self.peak = self.rss = self.paged = 0
        self.temps: list[float] = []
        self.clocks: list[float] = []
        self.signs: set[str] = set()
        self.before, (self.swapped, self.killed) = throttling(), vmstat()
        self.free = self.least = free
        self.ended = threading.Event()

    def follow(self) -> None:
        """Until the end: look, and tell once a second."""
        while not self.ended.wait(PERIOD_S):
            held = status(self.pid)
            self.rss, self.peak = held.get("VmRSS", self.rss), max(self.peak, held.get("VmHWM", 0))
            self.paged = max(self.paged, held.get("VmSwap", 0))
            now = time.monotonic()
            if now - self.slow > SLOW_S:
                self.slow = now
                self.slowly()
            if now - self.told > TELL_S:
                self.told = now
                celsius, mhz = (kept[-1] if kept else None for kept in (self.temps, self.clocks))
                tell(
                    t=round(now - self.start, 2),
                    phase=self.phase,
                    rss=self.rss,
                    celsius=celsius,
                    mhz=mhz,
                )

    def slowly(self) -> None:
        """What costs more to read."""
        for kept, found in ((self.temps, heat()), (self.clocks, clock())):
            if found is not None:
                kept.append(found)
        self.least = min(self.least, available())
        for sign, value in throttling().items():
            if value > self.before.get(sign, 0) or (
                re.match(r"vcgencmd bit [0-3]$", sign) and value
            ):
                self.signs.add(sign)

    def summary(self) -> dict[str, Any]:
        """The whole run in numbers; system: by how much the machine's available memory fell."""
        self.slowly()
        swapped, killed = vmstat()
        return {
            "phase": self.phase,
            "rss": self.rss,
            "peak": self.peak,
            "system": self.free - self.least,
            "celsius": max(self.temps, default=None),
            "mhz": min(self.clocks, default=None),
            "throttled": sorted(self.signs),
            "swapped": max(swapped - self.swapped, self.paged),
            "oom_kills": killed - self.killed,
            "seconds": round(time.monotonic() - self.start, 2),
        }


def command(job: dict[str, Any]) -> list[str]:
    """What is started: our child with the library, or the user's llama-bench."""
    if job["runtime"]["kind"] == "llama-cpp-python":
        return [sys.executable, "-u", job["child"], json.dumps(job)]
    bench, mapped = job["runtime"]["path"], job["job"] == "speed"
    if mapped:
        sizes = ["-p", job["prompt"], "-n", job["generate"], "-r", job["repeat"]]
    else:  # one test that reads the context but a few tokens, and generates those
        sizes = ["-p", 0, "-n", 0, "-pg", f"{job['context'] - LAST},{LAST}", "-r", 1]
    given = [
        "-m",
        job["gguf"],
        *sizes,
        "-t",
        job["threads"],
        "-o",
        "json",
        "-v",
        "-ctk",
        job["kv"],
        "-ctv",
        job["kv"],
    ]
    given += (
        ["-lm", "mmap" if mapped else "none"]
        if "--load-mode" in usage(bench)
        else ["-mmp", int(mapped)]
    )
    given += ["-ngl", job["gpu_layers"]] if job["gpu_layers"] is not None else []
    given += ["-fa", 1] if job["kv"] != "f16" else []
    fence = (
        ["sh", "-c", f'ulimit -d {job["limit"] // 1024} && exec "$0" "$@"']
        if job["limit"] is not None
        else []
    )
    return [*fence, bench, *map(str, given)]


def usage(bench: str) -> str:
    """What a llama-bench says of its options: -mmp became -lm in 2026."""
    done = subprocess.run(
        [bench, "--help"], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return done.stdout + done.stderr


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job's command under watch, alone among the runs that use this lock."""
    with Path(job["lock"]).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            tell(say="waits for another measurement on this board")
            fcntl.flock(lock, fcntl.LOCK_EX)
        return watched(job, command(job))


def watched(job: dict[str, Any], argv: list[str]) -> dict[str, Any]:
    """{"rows", "code", "late", "log"} and the watch's summary."""
    free = available()
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
    assert child.stdout
    assert child.stderr
    watch, log, out = Watch(child.pid, free), child.stderr, child.stdout
    words: list[str] = []
    listener = threading.Thread(target=lambda: words.extend(log), daemon=True)
    timer = threading.Timer(job["timeout_s"], kill)
    timer.daemon = True
    for thread in (listener, timer, threading.Thread(target=watch.follow, daemon=True)):
        thread.start()
    rows = benched(out.read()) if job["runtime"]["kind"] == "llama-bench" else heard(out, watch)
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
        "log": "".join(words)[-2000:],
        **watch.summary(),
    }


def heard(lines: Any, watch: Watch) -> list[dict[str, Any]]:
    """Our child's rows; what it says of its phase goes to the watch."""
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            watch.phase = row.pop("phase", watch.phase)
            rows += [row] if row else []
    return rows


def benched(said: str) -> list[dict[str, Any]]:
    """llama-bench's JSON (-o json) as such rows: tokens/s of each repetition. Empty where it wrote
    none.
    """
    rows = []
    with contextlib.suppress(ValueError):
        for found in json.loads(said[said.index("[") :]):
            metric = "pp_tps" if found["n_prompt"] else "tg_tps"
            rows.append(
                {
                    "metric": metric,
                    "rates": found["samples_ts"],
                    "build": found.get("build_commit", ""),
                }
            )
    return rows


def kill() -> None:
    """End every child with all that it started."""
    for child in CHILDREN:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


def until_silence() -> None:
    """When nobody listens any more: end everything."""
    while os.read(0, 4096):
        pass
    kill()
    os._exit(1)


def hashed(job: dict[str, Any]) -> dict[str, str]:
    """A file's SHA-256."""
    return {"sha256": digest(job["path"])}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "machine": machine,
    "hash": hashed,
    "room": room,
}


def main() -> int:
    """The entry: a job from stdin."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as listener:
        job = json.loads(listener.readline())
    threading.Thread(target=until_silence, daemon=True).start()
    tell(end=JOBS.get(job["job"], measure)(job))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
