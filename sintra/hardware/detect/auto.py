"""This machine, detected, measured and written as a profile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sintra.config.project import source_folder
from sintra.hardware.detect import machine as machines
from sintra.hardware.detect import profile as profiles
from sintra.hardware.detect.bandwidth import bandwidth
from sintra.hardware.detect.profile import AUTO, GIB
from sintra.hardware.profiles import load

__all__ = ["AUTO", "detect", "text"]
ARRAYS = 512 * 2**20


def detect(path: Path, measure: bool = True) -> dict[str, Any]:
    """Look, measure the memory (a few seconds, half a GiB or an eighth of what is free), write the
    profile to a path.

    Returns {"machine", "bandwidth" in bytes/s or None, "profile"}. A machine that no profile of
    ours stands for is measured in any case.
    """
    machine = machines.this()
    known = (
        load(source_folder(), machine.profile)
        if machine.profile and (source_folder() / "conf").is_dir()
        else None
    )
    measured = None
    if measure or not known:
        measured = bandwidth(machine.cores, min(ARRAYS, max(2**20, machine.usable // 8)))
    profile = profiles.of_machine(machine, measured, known)
    profiles.write(path, profile, comments(machine, measured))
    return {"machine": machines.described(machine), "bandwidth": measured, "profile": profile}


def comments(machine: machines.Machine, measured: dict[str, float] | None) -> list[str]:
    """Where each number of the profile is from."""
    found = [
        (
            f"detected by doit detect on {time.strftime('%Y-%m-%d', time.gmtime())}: cores, ISA, "
            "RAM, what was free of it"
        )
    ]
    if measured:
        both = ", ".join(f"{what} {value / 1e9:.1f} GB/s" for what, value in measured.items())
        found.append(f"memory measured with {machine.cores} threads: {both}")
    if machine.profile:
        found.append(
            f"speeds of conf/hardware/{machine.profile}.yaml, which stands for a "
            f"{machine.board or machine.cpu}"
        )
    if machine.limits.memory is not None:
        found.append(f"memory limit of its cgroup: {machine.limits.memory / GIB:.3f} GiB")
    return found


def text(found: dict[str, Any]) -> str:
    """What was found, a line each."""
    machine, limits = found["machine"], found["machine"]["limits"]
    cpu, cores = (
        f"{machine['cpu']} ({machine['architecture']})",
        f"{machine['cores']} of {machine['physical']} cores usable",
    )
    lines = [
        f"{'CPU':<14}{cpu}, {cores}",
        f"{'ISA':<14}{' '.join(machine['isa']) or 'nothing that llama.cpp has kernels for'}",
    ]
    if machine["board"]:
        lines.append(
            f"{'board':<14}{machine['board']}{' = ' + machine['profile'] if machine['profile'] else ''}"
        )
    lines.append(
        f"{'RAM':<14}{machine['memory'] / GIB:.2f} GiB, {machine['available'] / GIB:.2f} available"
    )
    if limits["memory"] is not None:
        lines.append(
            f"{'cgroup limit':<14}{limits['memory'] / GIB:.3f} GiB, "
            f"{(limits['used'] or 0) / GIB:.3f} used"
        )
    if limits["cores"] is not None:
        lines.append(f"{'cgroup quota':<14}{limits['cores']:g} cores")
    lines.append(f"{'usable':<14}{machine['usable'] / GIB:.2f} GiB")
    if found["bandwidth"]:
        lines.append(
            f"{'bandwidth':<14}"
            + ", ".join(f"{k} {v / 1e9:.1f} GB/s" for k, v in found["bandwidth"].items())
        )
    for gpu in machine["gpus"]:
        lines.append(f"{'GPU':<14}{gpu['name']} ({gpu['backend']}), {gpu['memory'] / GIB:.2f} GiB")
    lines += [f"{name:<14}{mode}" for name, mode in machine["modes"].items()]
    lines += [
        f"{'temperature':<14}{name} {value:.1f} C"
        for name, value in machine["temperatures"].items()
    ]
    return "\n".join(lines)
