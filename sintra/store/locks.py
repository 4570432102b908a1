"""Say who works on what: a lock for each key, held by the worker.

Locks save work; correctness rests on atomic publishing. On a local filesystem a lock is flock,
which the kernel drops with the process. Network filesystems may drop it silently or keep it to one
machine, so there it is a lease: a file with its owner's name in it that the owner touches again and
again (filelock's SoftFileLease). A contender goes by its own monotonic clock and by whether that
file changes, so clocks that differ between machines do no harm. It takes the lease over at once
when the owner was a process of this machine and is gone, else when nothing has changed for as long
as a lease lasts.
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
from typing import BinaryIO

from sintra.core.errors import UserError, nearest
from sintra.store.files import NONBLOCK, is_odd, put_aside

KINDS = ("auto", "flock", "lease")  # values of the option store.locks
# Where flock is missing, local to a machine, or depends on how the server was set up:
# https://man7.org/linux/man-pages/man2/flock.2.html
UNRELIABLE_FLOCK = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs\w*|ceph|afs|9p|virtiofs|orangefs|pvfs2|panfs|davfs"
    r"|fuse(?!blk|ctl).*"
)
LEASE_S = 60.0  # how long a lease lasts without a sign of its owner, seconds
MOUNTS = Path("/proc/self/mountinfo")


def filesystem_type(path: Path, mounts: str) -> str:
    """Return the type of the filesystem that a path lies on; "" where the mounts don't say.

    mounts: the text of /proc/self/mountinfo (proc(5)).
    """
    longest, filesystem = -1, ""
    location = str(path.resolve()) + "/"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        mount = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), parts[4]).rstrip("/") + "/"
        # of two mounts at one place the later covers the earlier
        if location.startswith(mount) and len(mount) >= longest:
            longest, filesystem = len(mount), rest.split(" ")[0]
    return filesystem


@functools.cache
def uses_leases(folder: Path, kind: str) -> bool:
    """Return whether locks of this kind (store.locks) are leases in a folder."""
    if kind != "auto":
        return kind == "lease"
    with contextlib.suppress(OSError):
        mounts = MOUNTS.read_text(errors="replace")
        return UNRELIABLE_FLOCK.fullmatch(filesystem_type(folder, mounts)) is not None
    return False


def check_lock_kind(kind: str) -> str:
    """Return the value of the option `store.locks`. Raises UserError where it is unknown."""
    if kind not in KINDS:
        raise UserError(f"store.locks={kind!r}: {nearest(kind, KINDS)}")
    return kind


def open_lock(path: Path) -> BinaryIO:
    """Open the file of a lock, made where it is missing; what is no file is put aside.

    A FIFO is not waited for.
    """
    flags = os.O_RDWR | os.O_CREAT | NONBLOCK
    try:
        handle = os.open(path, flags, 0o666)
    except OSError:
        if not is_odd(path):
            raise
        put_aside(path)
        handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        put_aside(path)
        handle = os.open(path, flags, 0o666)
    return os.fdopen(handle, "r+b")


@contextlib.contextmanager
def hold_lock(path: Path, kind: str) -> Iterator[None]:
    """Hold the lock of this name, after waiting for it."""
    if uses_leases(path.parent, kind):
        with hold_lease(path, -1):
            yield
        return
    with open_lock(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_lock(path: Path, kind: str) -> Iterator[bool]:
    """Hold the lock of this name if it is free; yield whether it was."""
    with contextlib.ExitStack() as stack:
        try:
            if uses_leases(path.parent, kind):
                stack.enter_context(hold_lease(path, 0))
            else:
                handle = stack.enter_context(open_lock(path))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, TimeoutError):
            yield False
            return
        yield True


@contextlib.contextmanager
def hold_lease(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lease; a timeout of -1 waits for ever. Raises TimeoutError."""
    import filelock  # not on the no-op path

    duration_s = float(os.environ.get("SINTRA_LEASE_S", LEASE_S))
    lease = filelock.SoftFileLease(
        path.with_name(path.name + ".lease"),
        lease_duration=duration_s,
        timeout=timeout_s,
        poll_interval=min(0.2, duration_s / 10),
        on_compromise=report_lost_lease,
    )
    with lease:
        yield


def report_lost_lease(why: object) -> None:
    """Print that a lease was lost; the work goes on.

    Should another process do the same work, the first result counts. Called by the lease's
    heartbeat, in a thread of its own.
    """
    print(
        f"a lease was lost ({getattr(why, 'reason', why)}): the step may be made twice",
        file=sys.stderr,
        flush=True,
    )


def machine_lock_path(root: Path, kind: str) -> Path:
    """Return the file of the lock that keeps a speed measurement alone on its machine.

    It is always flock, so where a cache is shared by machines it lies in this machine's own
    temporary folder. root: the cache's folder.
    """
    folder = root / "lock"
    if not uses_leases(folder, kind):
        return folder / "machine"
    own = Path(tempfile.gettempdir()) / f"sintra-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    status = own.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():  # somebody else's
        return folder / f"machine-{os.uname().nodename}"
    return own / "machine"
