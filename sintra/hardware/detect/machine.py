"""What the machine at hand is. Everything is read below a root, so that a board's recorded files
can be read as well.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sintra.hardware.detect.cgroups import Limits, limits
from sintra.hardware.detect.gpus import Gpu

# Flags of /proc/cpuinfo that llama.cpp's kernels ask for, the strongest first.
X86 = ("amx_int8", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "avx", "sse4_2")
ARM = {"sve2": "sve2", "sve": "sve", "i8mm": "i8mm", "asimddp": "dotprod"}
# Device tree's model -> profile. A Jetson's module says which memory it has.
BOARDS = (
    (r"Raspberry Pi (5|500|Compute Module 5)", "raspberry_pi_5"),
    (r"Raspberry Pi (4|400|Compute Module 4)", "raspberry_pi_4"),
    (r"Orin Nano.*Super", "jetson_orin_nano_super"),
    (r"Orin Nano", "jetson_orin_nano"),
    (r"AGX Orin", "jetson_agx_orin"),
    (r"Jetson Nano", "jetson_nano"),
    (r"Orion O6", "radxa_orion_o6"),
)
APPLE = {
    "M1": "apple_m1",
    "M1 Max": "apple_m1_max",
    "M2": "macbook_air_m2",
    "M4": "mac_mini_m4",
    "M4 Pro": "apple_m4_pro",
}


@dataclass(frozen=True)
class Machine:
    """Bytes, Celsius, MHz. cores: usable by this process (affinity and quota); physical: in the
    machine; board: device tree's model; profile: one of conf/hardware that stands for it; modes:
    power mode by what names it.
    """

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    physical: int
    memory: int
    available: int
    limits: Limits
    board: str = ""
    profile: str = ""
    modes: dict[str, str] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()

    @property
    def usable(self) -> int:
        """Bytes that a model may have now: what is free, or what the cgroup leaves."""
        left = self.limits.memory
        return self.available if left is None else min(self.available, left - self._used())

    def _used(self) -> int:
        return min(self.limits.used or 0, self.limits.memory or 0)


def read(path: Path) -> str:
    """A file's text without the device tree's final NUL; "" where there is none."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def cpuinfo(root: Path) -> list[tuple[str, str]]:
    """The (key, value) lines of /proc/cpuinfo."""
    lines = (line.partition(":") for line in read(root / "proc/cpuinfo").splitlines())
    return [(key.strip(), value.strip()) for key, sep, value in lines if sep]


def isa(pairs: list[tuple[str, str]]) -> tuple[str, ...]:
    """The instruction sets that matter to llama.cpp, by the first core that lists any."""
    flags = next((v.split() for k, v in pairs if k in ("flags", "Features")), [])
    return tuple(n for n in X86 if n in flags) + tuple(
        name for flag, name in ARM.items() if flag in flags
    )


def counted(pairs: list[tuple[str, str]]) -> tuple[int, int]:
    """Logical and physical cores by /proc/cpuinfo; ARM lists no core ids: each is one."""
    logical = sum(k == "processor" for k, _ in pairs)
    socket = "0"
    cores: set[tuple[str, str]] = set()
    for key, value in pairs:
        socket = value if key == "physical id" else socket
        if key == "core id":
            cores.add((socket, value))
    return logical, len(cores) or logical


def meminfo(root: Path) -> tuple[int, int]:
    """Bytes of RAM: all, and available without swapping."""
    found: dict[str, str] = dict(
        re.findall(r"^(\w+):\s+(\d+) kB", read(root / "proc/meminfo"), re.M)
    )
    return int(found.get("MemTotal", 0)) * 1024, int(
        found.get("MemAvailable") or found.get("MemFree") or 0
    ) * 1024


def board(root: Path) -> str:
    """What the device tree calls the board, as "Raspberry Pi 5 Model B Rev 1.0"; "" on a PC."""
    return read(root / "proc/device-tree/model") or read(
        root / "sys/firmware/devicetree/base/model"
    )


def modes(root: Path) -> dict[str, str]:
    """Power mode: the CPU's governor, ACPI's profile, a Jetson's nvpmodel."""
    places = {
        "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "profile": "sys/firmware/acpi/platform_profile",
        "nvpmodel": "var/lib/nvpmodel/status",
    }
    return {name: text for name, path in places.items() if (text := read(root / path))}


def temperatures(root: Path) -> dict[str, float]:
    """Thermal zones in Celsius by their type."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = read(zone / "temp")
        if text.lstrip("-").isdigit():
            found[read(zone / "type") or zone.name] = int(text) / 1000
    return found


def linux(root: Path = Path("/")) -> Machine:
    """From proc and sys below a root."""
    pairs, allowed = cpuinfo(root), limits(root)
    logical, physical = counted(pairs)
    usable = (
        len(os.sched_getaffinity(0))
        if root == Path("/") and hasattr(os, "sched_getaffinity")
        else logical
    )
    if allowed.cores is not None:
        usable = min(usable, max(1, int(allowed.cores)))
    total, available = meminfo(root)
    name, own = board(root), isa(pairs)
    arm = any(k == "CPU architecture" for k, _ in pairs)
    cpu = next((v for k, v in pairs if k in ("model name", "Model")), name or platform.machine())
    profile = next((p for pattern, p in BOARDS if re.search(pattern, name)), "")
    kind = "aarch64" if arm else "x86_64" if pairs else platform.machine()
    return Machine(
        cpu,
        kind,
        own,
        usable,
        physical,
        total,
        available,
        allowed,
        name,
        profile,
        modes(root),
        temperatures(root),
    )


def apple(sysctl: dict[str, str], available: int) -> Machine:
    """A Mac by its sysctl values (machdep.cpu.brand_string, hw.memsize, hw.physicalcpu,
    hw.optional.arm.FEAT_I8MM).
    """
    cpu = sysctl.get("machdep.cpu.brand_string", "Apple")
    cores, total = (
        int(sysctl.get("hw.physicalcpu", os.cpu_count() or 1)),
        int(sysctl.get("hw.memsize", 0)),
    )
    own = ("i8mm", "dotprod") if sysctl.get("hw.optional.arm.FEAT_I8MM") == "1" else ("dotprod",)
    profile = APPLE.get(cpu.removeprefix("Apple ").strip(), "")
    return Machine(cpu, "arm64", own, cores, cores, total, available, Limits(), "", profile)


def this() -> Machine:
    """The machine that this runs on, graphics processors included."""
    from dataclasses import replace

    from sintra.hardware.detect.gpus import found

    machine = linux() if platform.system() == "Linux" else _other()
    return replace(machine, gpus=tuple(found()))


def _other() -> Machine:
    import subprocess

    import psutil

    memory = psutil.virtual_memory()
    if platform.system() == "Darwin":
        names = (
            "machdep.cpu.brand_string",
            "hw.memsize",
            "hw.physicalcpu",
            "hw.optional.arm.FEAT_I8MM",
        )
        done = {
            n: subprocess.run(
                ["sysctl", "-n", n], capture_output=True, text=True, check=False
            ).stdout.strip()
            for n in names
        }
        return apple({k: v for k, v in done.items() if v}, memory.available)
    cores = psutil.cpu_count() or 1
    return Machine(
        platform.processor(),
        platform.machine(),
        (),
        cores,
        psutil.cpu_count(logical=False) or cores,
        memory.total,
        memory.available,
        Limits(),
    )


def described(machine: Machine) -> dict[str, Any]:
    """A machine as plain data."""
    from dataclasses import asdict

    return asdict(machine) | {"usable": machine.usable}
