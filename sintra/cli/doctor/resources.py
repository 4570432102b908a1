"""Cores, memory and disk, and whether the cache can be used."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sintra.cli.doctor.check import Check
from sintra.cli.doctor.packages import Needs
from sintra.core.stage import tool_version
from sintra.core.text import printable_line
from sintra.hardware.detect.machine import Machine

NVIDIA = Path("/dev/nvidia0")  # there where a driver has found a card
GIB = 1024**3
LITTLE_DISK, NO_DISK = 10e9, 1e9  # bytes: a 1 B model takes 23 GB; the bundled one 0.3 GB
LITTLE_MEMORY = 2 * GIB  # bytes


def machine_checks(machine: Machine) -> list[Check]:
    """Return cores and memory."""
    name = printable_line(machine.cpu, 60)
    cores = f"{machine.cores} of {machine.physical} physical, {name}, {machine.architecture}"
    usable = f"{machine.usable / GIB:.1f} of {machine.memory / GIB:.1f} GiB usable now"
    little = machine.usable < LITTLE_MEMORY
    memory = f"{usable}; little: larger models will fail" if little else usable
    return [
        Check("cores", "ok", cores),
        Check("memory", "note" if little else "ok", memory),
    ]


def gpu_check(machine: Machine, needs: Needs, device: Path = NVIDIA) -> Check:
    """Return the graphics processors; a note where there is NVIDIA's and nothing reads it."""
    if machine.gpus:
        names = ", ".join(f"{printable_line(g.name, 60)} ({g.backend})" for g in machine.gpus)
        return Check("GPU", "ok", names)
    if device.exists() and tool_version("nvidia-ml-py") == "none":
        found = "NVIDIA's, which can't be asked without its library"
        return Check("GPU", "note", found, needs.extra_command("nvidia"))
    return Check("GPU", "ok", "none of NVIDIA's; llama.cpp's line has the others")


def cache_checks(cache: Path) -> list[Check]:
    """Return the disk that the cache lies on, and the cache itself."""
    there = next(path for path in (cache.absolute(), *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    below = cache.absolute().is_relative_to(Path.cwd())
    name = str(cache.absolute().relative_to(Path.cwd()) if below else cache)
    shown = f"{free / 1e9:.1f} GB free at {printable_line(name, 200)}"
    if free < LITTLE_DISK:
        disk = Check("disk", "bad" if free < NO_DISK else "note", shown, "doit gc")
    else:
        disk = Check("disk", "ok", shown)
    return [disk, cache_check(cache, there)]


def cache_check(cache: Path, there: Path) -> Check:
    """Return whether the cache can be written to, and its size; there: it or a folder above."""
    name = printable_line(str(there), 200)
    if not there.is_dir():
        return Check("cache", "bad", f"{name} is not a folder", "set store.path=FOLDER")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = f"{name} can't be written to: {error.strerror}"
        return Check("cache", "bad", reason, f"chmod u+rwx '{name}', or set store.path=FOLDER")
    if there != cache.absolute():
        return Check("cache", "ok", "not made yet; its place can be written to")
    count, size = blob_sizes(cache)
    return Check("cache", "ok", f"{count} files, {size / 1e9:.2f} GB (`doit du`)")


def blob_sizes(cache: Path) -> tuple[int, int]:
    """Return how many files the cache holds, and their bytes."""
    sizes = [
        entry.stat(follow_symlinks=False).st_size
        for folder in cache.glob("cas/*")
        if folder.is_dir()
        for entry in os.scandir(folder)
    ]
    return len(sizes), sum(sizes)
