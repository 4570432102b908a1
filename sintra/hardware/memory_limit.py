"""Limit the memory of one child process.

The limit is a cgroup of its own where one can be made, else a limit on its data segment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sintra.hardware.detect.cgroups import group_folders


@dataclass(frozen=True)
class MemoryLimit:
    """Hold a limit that is in force."""

    kind: Literal["cgroup", "rlimit"]  # rlimit: the child has to set it itself
    limit: int  # bytes
    folder: Path | None = None  # of the cgroup

    def add_process(self, pid: int) -> None:
        """Put a process into the cgroup, where there is one."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def was_reached(self) -> bool:
        """Return whether the kernel has ended a process of the cgroup for want of memory."""
        if not self.folder:
            return False
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in (self.folder / name).read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill" and int(value):
                        return True
        return False


@contextlib.contextmanager
def memory_limit(limit: int, root: Path = Path("/")) -> Iterator[MemoryLimit]:
    """Open a limit of so many bytes; a cgroup is removed afterwards."""
    folder = _make_group(limit, root)
    try:
        yield MemoryLimit("cgroup", limit, folder) if folder else MemoryLimit("rlimit", limit)
    finally:
        if folder:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make_group(limit: int, root: Path) -> Path | None:
    """Return the folder of a new cgroup with the limit, or None where none can be made."""
    for controller, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        base = next(group_folders(root, controller), None)
        if base is None:
            continue
        folder = base / f"sintra-{os.getpid()}-{os.urandom(3).hex()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            _set_limit(folder, name, limit)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        return folder
    return None


def _set_limit(folder: Path, name: str, limit: int) -> None:
    """Write a cgroup's limit in bytes. Raises OSError where the controller isn't there."""
    if not (folder / name).exists():  # a plain folder, or a hierarchy without the controller
        raise OSError(name)
    (folder / name).write_text(str(limit))
    with contextlib.suppress(OSError):  # no swapping out of the limit's reach
        (folder / "memory.swap.max").write_text("0")
