"""Who works on what: a lock for each key, held by the worker. It saves work; correctness rests on
atomic publishing.

On a local filesystem that is flock, which the kernel drops with the process. Network filesystems
may drop it silently or keep it to one machine, so there a lease is taken: a file with its owner's
name in it that the owner touches again and again (filelock's SoftFileLease). A contender goes by
its own monotonic clock and by whether that file changes, so clocks that differ between machines do
no harm; it takes the lease over at once when the owner was a process of this machine and is gone,
else when nothing has changed for as long as a lease lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sintra.core.errors import UserError, nearest

KINDS = ("auto", "flock", "lease")
# Where flock is missing, local to a machine, or depends on how the server was set up:
# https://man7.org/linux/man-pages/man2/flock.2.html
UNSURE = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs\w*|ceph|afs|9p|virtiofs|orangefs|pvfs2|panfs|davfs|fuse(?!blk|ctl).*"
)
LEASE_S = 60.0
MOUNTS = Path("/proc/self/mountinfo")


def filesystem(path: Path, mounts: str) -> str:
    """The type of the filesystem that a path lies on, from /proc/self/mountinfo (proc(5)); empty
    where it says nothing.
    """
    best, kind = -1, ""
    own = str(path.resolve()) + "/"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), parts[4]).rstrip("/") + "/"
        if (
            own.startswith(point) and len(point) >= best
        ):  # of two on one point, the later covers the earlier
            best, kind = len(point), rest.split(" ")[0]
    return kind


@functools.cache
def leased(folder: Path, kind: str) -> bool:
    """Whether locks in a folder are leases."""
    if kind != "auto":
        return kind == "lease"
    with contextlib.suppress(OSError):
        return UNSURE.fullmatch(filesystem(folder, MOUNTS.read_text(errors="replace"))) is not None
    return False


def checked(kind: str) -> str:
    """The option `store.locks`. Raises UserError."""
    if kind not in KINDS:
        raise UserError(f"store.locks={kind!r}: {nearest(kind, KINDS)}")
    return kind


@contextlib.contextmanager
def exclusive(path: Path, kind: str) -> Iterator[None]:
    """Hold the lock of this name, after waiting for it."""
    if leased(path.parent, kind):
        with lease(path, -1):
            yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def attempt(path: Path, kind: str) -> Iterator[bool]:
    """Hold the lock of this name if nobody has it; says whether."""
    with contextlib.ExitStack() as stack:
        try:
            if leased(path.parent, kind):
                stack.enter_context(lease(path, 0))
            else:
                fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, TimeoutError):
            yield False
            return
        yield True


@contextlib.contextmanager
def lease(path: Path, timeout_s: float) -> Iterator[None]:
    """A lease; timeout_s -1 waits for ever. Raises TimeoutError."""
    import filelock

    lasts = float(os.environ.get("SINTRA_LEASE_S", LEASE_S))
    held = filelock.SoftFileLease(
        path.with_name(path.name + ".lease"),
        lease_duration=lasts,
        timeout=timeout_s,
        poll_interval=min(0.2, lasts / 10),
        on_compromise=lost,
    )
    with held:
        yield


def lost(why: object) -> None:
    """Said from the heartbeat's thread; the work goes on: if another does it as well, the first
    result counts.
    """
    print(
        f"a lease was lost ({getattr(why, 'reason', why)}): the step may be made twice",
        file=sys.stderr,
        flush=True,
    )


def machine(root: Path, kind: str) -> Path:
    """The file of the lock that keeps a speed measurement alone on its machine. Always flock, so
    where a cache is shared by machines it lies in this machine's own temporary folder.
    """
    folder = root / "lock"
    if not leased(folder, kind):
        return folder / "machine"
    own = Path(tempfile.gettempdir()) / f"sintra-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody else's
        return folder / f"machine-{os.uname().nodename}"
    return own / "machine"
