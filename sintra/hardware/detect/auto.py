"""Detect and measure this machine, and write it as a profile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config.project import source_folder
from sintra.hardware.detect.bandwidth import Bandwidth, measure_bandwidth
from sintra.hardware.detect.machine import Machine, this_machine
from sintra.hardware.detect.profile import GIB, profile_of_machine, write_profile
from sintra.hardware.profiles import ProfileFile, read_profile

ARRAY_BYTES = 512 * 2**20  # of the bandwidth's arrays, at most
LABEL = 14  # columns of the printed labels


@dataclass(frozen=True)
class Detection:
    """Hold what was detected and measured."""

    machine: Machine
    bandwidth: Bandwidth | None  # None: not measured
    profile: ProfileFile  # as it was written

    def as_json(self) -> dict[str, Any]:
        """Return the detection in JSON's types."""
        return {
            "machine": self.machine.as_json(),
            "bandwidth": self.bandwidth,
            "profile": self.profile,
        }


def detect_machine(path: Path, measure: bool = True) -> Detection:
    """Detect this machine, measure its memory, and write its profile to a path.

    Measuring takes a few seconds, and half a GiB or an eighth of what is free. A machine that no
    profile of ours stands for is measured in any case.
    """
    machine = this_machine()
    base, bandwidth = None, None
    if machine.profile and (source_folder() / "conf").is_dir():
        base = read_profile(source_folder(), machine.profile)
    if measure or not base:
        size = min(ARRAY_BYTES, max(2**20, machine.usable // 8))
        bandwidth = measure_bandwidth(machine.cores, size)
    profile = profile_of_machine(machine, bandwidth, base)
    write_profile(path, profile, source_comments(machine, bandwidth))
    return Detection(machine, bandwidth, profile)


def source_comments(machine: Machine, bandwidth: Bandwidth | None) -> list[str]:
    """Return where each number of the profile is from, a line each."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    comments = [f"detected by doit detect on {date}: cores, ISA, RAM, what was free of it"]
    if bandwidth:
        comments.append(
            f"memory measured with {machine.cores} threads: {_format_bandwidth(bandwidth)}"
        )
    if machine.profile:
        comments.append(
            f"speeds of conf/hardware/{machine.profile}.yaml, which stands for a "
            f"{machine.board or machine.cpu}"
        )
    if machine.limits.memory is not None:
        comments.append(f"memory limit of its cgroup: {machine.limits.memory / GIB:.3f} GiB")
    return comments


def _format_bandwidth(bandwidth: Bandwidth) -> str:
    return f"read {bandwidth['read'] / 1e9:.1f} GB/s, copy {bandwidth['copy'] / 1e9:.1f} GB/s"


def format_detection(detection: Detection) -> str:
    """Return what was detected, a line for each fact."""
    return "\n".join(f"{label:<{LABEL}}{text}" for label, text in _facts(detection))


def _facts(detection: Detection) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of each fact."""
    machine = detection.machine
    cores = f"{machine.cores} of {machine.physical} cores usable"
    yield "CPU", f"{machine.cpu} ({machine.architecture}), {cores}"
    yield "ISA", " ".join(machine.isa) or "nothing that llama.cpp has kernels for"
    if machine.board:
        yield "board", machine.board + (f" = {machine.profile}" if machine.profile else "")
    available = f"{machine.available / GIB:.2f} available"
    yield "RAM", f"{machine.memory / GIB:.2f} GiB, {available}"
    yield from _limit_facts(machine)
    if detection.bandwidth:
        yield "bandwidth", _format_bandwidth(detection.bandwidth)
    for gpu in machine.gpus:
        yield "GPU", f"{gpu.name} ({gpu.backend}), {gpu.memory / GIB:.2f} GiB"
    yield from machine.modes.items()
    for zone, celsius in machine.temperatures.items():
        yield "temperature", f"{zone} {celsius:.1f} C"


def _limit_facts(machine: Machine) -> Iterator[tuple[str, str]]:
    """Yield (label, text) of the memory and cores that this process may have."""
    limits = machine.limits
    if limits.memory is not None:
        used = f"{(limits.used or 0) / GIB:.3f} used"
        yield "cgroup limit", f"{limits.memory / GIB:.3f} GiB, {used}"
    if limits.cores is not None:
        yield "cgroup quota", f"{limits.cores:g} cores"
    yield "usable", f"{machine.usable / GIB:.2f} GiB"
