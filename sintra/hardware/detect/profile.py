"""A machine becomes a profile: a YAML file like those in conf/hardware, to keep, to share, to name
with hardware=PATH.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sintra.hardware.detect.machine import Machine
from sintra.store.files import write_atomic

GIB = 2**30
AUTO = "meta/auto.yaml"  # in the cache: what hardware=auto found
# Decoding's speed over the best of (read, copy) that such a test measures. For Raspberry Pi 4 and
# 5, Intel N100 and Orion O6 the decode points come to 0.78 to 0.95 of what sbc-bench
# (github.com/ThomasKaiser/sbc-bench) or rambw measure there; the extra bytes a weight are the CPU
# class's (sintra/hardware/estimate/fit.py).
MEASURED = {
    "efficiency": 0.9,
    "efficiency_spread": 0.4,
    "overhead_us_per_layer": 4.94,
    "overhead_spread": 1.3,
    "bytes_per_weight": 0.062,
}


def slug(text: str) -> str:
    """A profile's name from a machine's."""
    plain = re.sub(r"\((R|TM|C)\)|\b(CPU|Processor|with Radeon Graphics)\b|@.*", " ", text)
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:48] or "machine"


def of_machine(
    machine: Machine, measured: dict[str, float] | None, known: dict[str, Any] | None
) -> dict[str, Any]:
    """The profile of a machine. measured: bandwidths of hardware.stream in bytes/s; known: the
    profile of conf/hardware that stands for such a device, whose fitted speeds are kept; a card
    with memory of its own is the device, this its host.
    """
    name = machine.board or machine.cpu
    profile: dict[str, Any] = {
        "name": slug(name),
        "title": name,
        "backend": "cpu",
        "cores": machine.cores,
        "isa": " ".join((machine.architecture, *machine.isa)),
        "ram_gb": round(machine.memory / GIB, 3),
        "usable_gb": round(machine.usable / GIB, 3),
    }
    card = next((g for g in machine.gpus if g.backend == "cuda" and g.bandwidth), None)
    if known:
        return known | {
            k: profile[k] for k in ("name", "title", "cores", "isa", "ram_gb", "usable_gb")
        }
    best = max(measured.values()) if measured else None
    if card and card.bandwidth:
        return profile | _card(
            card.name, card.memory, card.free, card.bandwidth, profile["usable_gb"], best
        )
    if best is None:
        raise ValueError("no bandwidth is known: measure it")
    return (
        profile
        | {"bandwidth_gbs": round(best / 1e9, 2)}
        | MEASURED
        | {"tflops": None, "thermal": {}}
    )


def _card(
    name: str, memory: int, free: int, bandwidth: float, host_gb: float, host: float | None
) -> dict[str, Any]:
    """What changes where a graphics card is the device: the fit's CUDA class
    (sintra/hardware/estimate/fit.py), wide.
    """
    return {
        "name": slug(name),
        "title": name,
        "backend": "cuda",
        "ram_gb": round(memory / GIB, 3),
        "usable_gb": round(free / GIB, 3),
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
        "host_bandwidth_gbs": round(host / 1e9, 2) if host else 0.0,
    }


def text(profile: dict[str, Any], comments: list[str]) -> str:
    """The file."""
    import yaml

    head = "".join(f"# {line}\n" for line in comments)
    return head + yaml.safe_dump(
        profile, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def write(path: Path, profile: dict[str, Any], comments: list[str]) -> None:
    """Write a profile."""
    write_atomic(path, text(profile, comments))
