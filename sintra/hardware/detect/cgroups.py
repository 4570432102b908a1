"""Limits that a container or a service manager puts on this process: cgroups v1 and v2 (kernel
documentation, admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst). `root` is where the
filesystem begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 2**60  # v1 writes a number near 2^63 for no limit


@dataclass(frozen=True)
class Limits:
    """Bytes and cores; None where there is no limit. used: bytes that the limiting group can't give
    back (its page cache that nobody has used of late left out).
    """

    memory: int | None = None
    used: int | None = None
    cores: float | None = None


def paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group; "" is v2's."""
    found = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                found[name] = parts[2]
    return found


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all above it, the innermost first; in a container
    whose path from outside isn't there, the mount's own root.
    """
    path = paths(root).get(controller)
    if path is None:
        return
    places = (
        [root / "sys/fs/cgroup" / controller]
        if controller
        else [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
    )
    for base in places:
        if not base.is_dir():
            continue
        inner = base / path.lstrip("/")
        while inner != base:
            if inner.is_dir():
                yield inner
            inner = inner.parent
        yield base


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of any group that this process is in."""
    best: tuple[int, int | None] | None = None
    for controller, limit, usage in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for group in groups(root, controller):
            value = _number(group / limit)
            if value is not None and value < UNLIMITED and (best is None or value < best[0]):
                best = value, _held(group, usage)
    return Limits(best[0] if best else None, best[1] if best else None, _cores(root))


def _held(group: Path, usage: str) -> int | None:
    used = _number(group / usage)
    stat = dict(
        line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line
    )
    idle = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
    return None if used is None else max(0, used - int(idle))


def _cores(root: Path) -> float | None:
    found = []
    for group in groups(root, ""):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.strip().isdigit() and period.strip().isdigit():
            found.append(int(quota) / int(period))
    for group in groups(root, "cpu"):
        quota_us, period_us = (
            _number(group / "cpu.cfs_quota_us"),
            _number(group / "cpu.cfs_period_us"),
        )
        if quota_us and quota_us > 0 and period_us:
            found.append(quota_us / period_us)
    return min(found, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
