"""Turn a machine into a profile: a YAML file like those in conf/hardware.

It is there to keep, to share, and to name with hardware=PATH.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sintra.hardware.detect.bandwidth import Bandwidth
from sintra.hardware.detect.gpus import Gpu
from sintra.hardware.detect.machine import Machine
from sintra.hardware.profiles import ProfileFile
from sintra.store.files import write_atomic

GIB = 2**30
AUTO_PROFILE = "meta/auto.yaml"  # in the cache: what hardware=auto found
# Decoding's speed over the best of (read, copy) that such a test measures. For Raspberry Pi 4 and
# 5, Intel N100 and Orion O6 the decode points come to 0.78 to 0.95 of what sbc-bench
# (github.com/ThomasKaiser/sbc-bench) or rambw measure there; the extra bytes per weight are the CPU
# class's (sintra/hardware/estimate/fit.py).
MEASURED_CPU: ProfileFile = {
    "efficiency": 0.9,
    "efficiency_spread": 0.4,
    "overhead_us_per_layer": 4.94,
    "overhead_spread": 1.3,
    "bytes_per_weight": 0.062,
}
DETECTED = ("name", "title", "cores", "isa", "ram_gb", "usable_gb")  # keys that detection replaces


def profile_name(machine_name: str) -> str:
    """Return a profile's name from a machine's."""
    plain = re.sub(r"\((R|TM|C)\)|\b(CPU|Processor|with Radeon Graphics)\b|@.*", " ", machine_name)
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:48] or "machine"


def profile_of_machine(
    machine: Machine, bandwidth: Bandwidth | None, base: ProfileFile | None
) -> ProfileFile:
    """Return the profile of a machine.

    base: the profile of conf/hardware that stands for such a device, whose fitted speeds are kept.
    Without it, a card with memory of its own is the device, and this machine its host. Raises
    ValueError where the speed of the memory is unknown.
    """
    title = machine.board or machine.cpu
    profile: ProfileFile = {
        "name": profile_name(title),
        "title": title,
        "backend": "cpu",
        "cores": machine.cores,
        "isa": " ".join((machine.architecture, *machine.isa)),
        "ram_gb": round(machine.memory / GIB, 3),
        "usable_gb": round(machine.usable / GIB, 3),
    }
    if base:
        return cast(ProfileFile, {**base, **{k: v for k, v in profile.items() if k in DETECTED}})
    best = max(bandwidth["read"], bandwidth["copy"]) if bandwidth else None
    for gpu in machine.gpus:
        if gpu.backend == "cuda" and gpu.bandwidth:
            host_gbs = round(best / 1e9, 2) if best else 0.0
            return {**profile, **_card_profile(gpu, gpu.bandwidth, profile["usable_gb"], host_gbs)}
    if best is None:
        raise ValueError("no bandwidth is known: measure it")
    measured: ProfileFile = {"bandwidth_gbs": round(best / 1e9, 2), **MEASURED_CPU}
    return {**profile, **measured, "tflops": None, "thermal": {}}


def _card_profile(gpu: Gpu, bandwidth: float, host_gb: float, host_gbs: float) -> ProfileFile:
    """Return what changes where a graphics card is the device.

    Speeds are the fit's CUDA class (sintra/hardware/estimate/fit.py), with wide intervals.
    bandwidth: of the card's memory, bytes/s; host_gb: usable memory of the host, GiB; host_gbs: its
    bandwidth, 10^9 bytes/s.
    """
    return {
        "name": profile_name(gpu.name),
        "title": gpu.name,
        "backend": "cuda",
        "ram_gb": round(gpu.memory / GIB, 3),
        "usable_gb": round(gpu.free / GIB, 3),
        "bandwidth_gbs": round(bandwidth / 1e9, 1),
        "efficiency": 0.82,
        "efficiency_spread": 0.33,
        "overhead_us_per_layer": round(75 * (200e9 / bandwidth), 1),
        "overhead_spread": 1.1,
        "bytes_per_weight": 0.047,
        "k_quant": 0.1,
        "tflops": None,
        "thermal": {},
        "host_usable_gb": host_gb,
        "host_bandwidth_gbs": host_gbs,
    }


def format_profile(profile: Mapping[str, object], comments: list[str]) -> str:
    """Return a profile as YAML, with comments before it."""
    import yaml  # not on the no-op path

    head = "".join(f"# {line}\n" for line in comments)
    return head + yaml.safe_dump(
        dict(profile), sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def write_profile(path: Path, profile: Mapping[str, object], comments: list[str]) -> None:
    """Write a profile's YAML file."""
    write_atomic(path, format_profile(profile, comments))
