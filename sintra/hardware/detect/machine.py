"""Find out what the machine at hand is.

Everything is read below a root, so that a board's recorded files can be read as well.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sintra.hardware.detect.cgroups import CgroupLimits, cgroup_limits
from sintra.hardware.detect.gpus import Gpu, list_gpus, list_nvidia_gpus

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
APPLE = {  # chip -> profile
    "M1": "apple_m1",
    "M1 Max": "apple_m1_max",
    "M2": "macbook_air_m2",
    "M4": "mac_mini_m4",
    "M4 Pro": "apple_m4_pro",
}


SYSCTL_NAMES = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.physicalcpu",
    "hw.optional.arm.FEAT_I8MM",
)


@dataclass(frozen=True)
class Machine:
    """Hold what a machine is; the field names are the keys of `doit detect --format json`."""

    cpu: str  # the processor's name
    architecture: str  # x86_64, aarch64, arm64
    isa: tuple[str, ...]  # instruction sets that llama.cpp has kernels for
    cores: int  # usable by this process (affinity and quota)
    physical: int  # cores of the machine
    memory: int  # RAM, bytes
    available: int  # of it without swapping, bytes
    limits: CgroupLimits  # of a container or service
    board: str = ""  # the device tree's model
    profile: str = ""  # a profile of conf/hardware that stands for it
    modes: dict[str, str] = field(default_factory=dict)  # power mode by what names it
    temperatures: dict[str, float] = field(default_factory=dict)  # thermal zone -> Celsius
    gpus: tuple[Gpu, ...] = ()

    @property
    def usable(self) -> int:
        """Return the bytes that a model may have now: what is free, or what the cgroup leaves."""
        if self.limits.memory is None:
            return self.available
        used = min(self.limits.used or 0, self.limits.memory)
        return min(self.available, self.limits.memory - used)

    def as_json(self) -> dict[str, Any]:
        """Return the machine in JSON's types."""
        return asdict(self) | {"usable": self.usable}


def read_text(path: Path) -> str:
    """Read a file without the device tree's final NUL; "" where there is none."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def read_cpuinfo(root: Path) -> list[tuple[str, str]]:
    """Read the (key, value) lines of /proc/cpuinfo."""
    lines = (line.partition(":") for line in read_text(root / "proc/cpuinfo").splitlines())
    return [(key.strip(), value.strip()) for key, sep, value in lines if sep]


def instruction_sets(cpuinfo: list[tuple[str, str]]) -> tuple[str, ...]:
    """Return the instruction sets that matter to llama.cpp, by the first core that lists any."""
    flags = next((v.split() for k, v in cpuinfo if k in ("flags", "Features")), [])
    return tuple(n for n in X86 if n in flags) + tuple(
        name for flag, name in ARM.items() if flag in flags
    )


def count_cores(cpuinfo: list[tuple[str, str]]) -> tuple[int, int]:
    """Return logical and physical cores; ARM lists no core ids: each is one."""
    logical = sum(k == "processor" for k, _ in cpuinfo)
    socket = "0"
    cores: set[tuple[str, str]] = set()
    for key, value in cpuinfo:
        socket = value if key == "physical id" else socket
        if key == "core id":
            cores.add((socket, value))
    return logical, len(cores) or logical


def read_meminfo(root: Path) -> tuple[int, int]:
    """Read the bytes of RAM: all, and available without swapping."""
    text = read_text(root / "proc/meminfo")
    kib: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.M))
    available = kib.get("MemAvailable") or kib.get("MemFree") or 0
    return int(kib.get("MemTotal", 0)) * 1024, int(available) * 1024


def read_board_model(root: Path) -> str:
    """Read the device tree's name, as "Raspberry Pi 5 Model B Rev 1.0"; "" on a PC."""
    return read_text(root / "proc/device-tree/model") or read_text(
        root / "sys/firmware/devicetree/base/model"
    )


def read_power_modes(root: Path) -> dict[str, str]:
    """Read the power mode: the CPU's governor, ACPI's profile, a Jetson's nvpmodel."""
    paths = {
        "governor": "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "profile": "sys/firmware/acpi/platform_profile",
        "nvpmodel": "var/lib/nvpmodel/status",
    }
    return {name: text for name, path in paths.items() if (text := read_text(root / path))}


def read_temperatures(root: Path) -> dict[str, float]:
    """Read the thermal zones, Celsius by their type."""
    celsius: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = read_text(zone / "temp")
        if text.lstrip("-").isdigit():
            celsius[read_text(zone / "type") or zone.name] = int(text) / 1000
    return celsius


def read_linux_machine(root: Path = Path("/")) -> Machine:
    """Read a Linux machine from proc and sys below a root."""
    cpuinfo, limits = read_cpuinfo(root), cgroup_limits(root)
    logical, physical = count_cores(cpuinfo)
    memory, available = read_meminfo(root)
    board = read_board_model(root)
    arm = any(k == "CPU architecture" for k, _ in cpuinfo)
    names = (v for k, v in cpuinfo if k in ("model name", "Model"))
    return Machine(
        cpu=next(names, board or platform.machine()),
        architecture="aarch64" if arm else "x86_64" if cpuinfo else platform.machine(),
        isa=instruction_sets(cpuinfo),
        cores=_usable_cores(root, logical, limits),
        physical=physical,
        memory=memory,
        available=available,
        limits=limits,
        board=board,
        profile=next((p for pattern, p in BOARDS if re.search(pattern, board)), ""),
        modes=read_power_modes(root),
        temperatures=read_temperatures(root),
    )


def _usable_cores(root: Path, logical: int, limits: CgroupLimits) -> int:
    """Return the cores that this process may use, by affinity (of this machine only) and quota."""
    cores = logical
    if root == Path("/") and hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return cores if limits.cores is None else min(cores, max(1, int(limits.cores)))


def mac_of_sysctl(sysctl: dict[str, str], available: int) -> Machine:
    """Return a Mac by its sysctl values (SYSCTL_NAMES); available: bytes of memory."""
    cpu = sysctl.get("machdep.cpu.brand_string", "Apple")
    cores = int(sysctl.get("hw.physicalcpu", os.cpu_count() or 1))
    has_i8mm = sysctl.get("hw.optional.arm.FEAT_I8MM") == "1"
    return Machine(
        cpu=cpu,
        architecture="arm64",
        isa=("i8mm", "dotprod") if has_i8mm else ("dotprod",),
        cores=cores,
        physical=cores,
        memory=int(sysctl.get("hw.memsize", 0)),
        available=available,
        limits=CgroupLimits(),
        profile=APPLE.get(cpu.removeprefix("Apple ").strip(), ""),
    )


def this_machine(load_llama: bool = True) -> Machine:
    """Return the machine that this runs on, graphics processors included.

    load_llama: whether llama.cpp's library is loaded into this process to ask for its devices.
    """
    machine = read_linux_machine() if platform.system() == "Linux" else _other_machine()
    return replace(machine, gpus=tuple(list_gpus() if load_llama else list_nvidia_gpus()))


def _other_machine() -> Machine:
    """Return this machine where it doesn't run Linux."""
    import psutil  # not on the no-op path

    memory = psutil.virtual_memory()
    if platform.system() == "Darwin":
        values = {name: _read_sysctl(name) for name in SYSCTL_NAMES}
        return mac_of_sysctl({k: v for k, v in values.items() if v}, memory.available)
    cores = psutil.cpu_count() or 1
    return Machine(
        cpu=platform.processor(),
        architecture=platform.machine(),
        isa=(),
        cores=cores,
        physical=psutil.cpu_count(logical=False) or cores,
        memory=memory.total,
        available=memory.available,
        limits=CgroupLimits(),
    )


def _read_sysctl(name: str) -> str:
    """Read a sysctl value; "" where there is none."""
    command = ["sysctl", "-n", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
