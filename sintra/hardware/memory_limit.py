"""A memory limit for one child process: a cgroup of its own where one can be made, else a limit on
its data segment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sintra.hardware.detect.cgroups import groups


@dataclass(frozen=True)
class Fence:
    """kind: "cgroup" or "rlimit"; folder: the group's."""

    kind: str
    limit: int
    folder: Path | None = None

    def admit(self, pid: int) -> None:
        """Put a process into the group."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def struck(self) -> bool:
        """Whether the kernel has ended a process of the group for want of memory."""
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
def fence(limit: int, root: Path = Path("/")) -> Iterator[Fence]:
    """A limit of so many bytes; the group is removed afterwards."""
    made = _group(limit, root)
    try:
        yield Fence("cgroup", limit, made) if made else Fence("rlimit", limit)
    finally:
        if made:
            with contextlib.suppress(OSError):
                made.rmdir()


def _group(limit: int, root: Path) -> Path | None:
    for controller, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        base = next(groups(root, controller), None)
        if base is None:
            continue
        folder = base / f"sintra-{os.getpid()}-{os.urandom(3).hex()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if not (
                folder / name
            ).exists():  # a plain folder, or a hierarchy without the controller
                raise OSError(name)
            (folder / name).write_text(str(limit))
            with contextlib.suppress(OSError):  # no swapping out of the limit's reach
                (folder / "memory.swap.max").write_text("0")
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        return folder
    return None
