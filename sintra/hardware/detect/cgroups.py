"""Read the limits that a container or a service manager puts on this process.

cgroups v1 and v2: kernel documentation, admin-guide/cgroup-v1/memory.rst and
admin-guide/cgroup-v2.rst. `root` is where the filesystem begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 2**60  # v1 writes a number near 2^63 for no limit


@dataclass(frozen=True)
class CgroupLimits:
    """Hold the tightest limits of the groups that this process is in; None: no limit."""

    memory: int | None = None  # bytes
    used: int | None = None  # bytes that the limiting group can't give back: no idle page cache
    cores: float | None = None  # CPU quota over its period


def group_paths(root: Path) -> dict[str, str]:
    """Return the path of this process's group by controller; "" is v2's."""
    paths = {}
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                paths[name] = parts[2]
    return paths


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of all above it, the innermost first.

    In a container whose path from outside isn't there, it is the mount's own root.
    """
    path = group_paths(root).get(controller)
    if path is None:
        return
    mounts = (
        [root / "sys/fs/cgroup" / controller]
        if controller
        else [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
    )
    for base in mounts:
        if not base.is_dir():
            continue
        inner = base / path.lstrip("/")
        while inner != base:
            if inner.is_dir():
                yield inner
            inner = inner.parent
        yield base


def cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the tightest limits of any group that this process is in."""
    best: tuple[int, int | None] | None = None
    for controller, limit, usage in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for group in group_folders(root, controller):
            value = _read_number(group / limit)
            if value is not None and value < UNLIMITED and (best is None or value < best[0]):
                best = value, _used_bytes(group, usage)
    return CgroupLimits(best[0] if best else None, best[1] if best else None, _allowed_cores(root))


def _used_bytes(group: Path, usage: str) -> int | None:
    used = _read_number(group / usage)
    stat = dict(
        line.split(" ", 1) for line in _read_text(group / "memory.stat").splitlines() if " " in line
    )
    idle = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
    return None if used is None else max(0, used - int(idle))


def _allowed_cores(root: Path) -> float | None:
    cores = []
    for group in group_folders(root, ""):
        quota, _, period = _read_text(group / "cpu.max").partition(" ")
        if quota.strip().isdigit() and period.strip().isdigit():
            cores.append(int(quota) / int(period))
    for group in group_folders(root, "cpu"):
        quota_us = _read_number(group / "cpu.cfs_quota_us")
        period_us = _read_number(group / "cpu.cfs_period_us")
        if quota_us and quota_us > 0 and period_us:
            cores.append(quota_us / period_us)
    return min(cores, default=None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
