"""Name, hash, write and link files: whole or not at all, and durable where that matters."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

NONBLOCK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.ELOOP)  # something is there, and no folder


class NotRegularError(OSError):
    """There is something of this name, but no regular file."""


def unique_name() -> str:
    """Return 32 random hex digits: a name that no other process takes."""
    return os.urandom(16).hex()


def open_regular(path: str | Path, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading; a FIFO is not waited for.

    follow: whether a link is. Raises OSError for everything else.
    """
    handle = os.open(path, os.O_RDONLY | NONBLOCK | (0 if follow else NOFOLLOW))
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise NotRegularError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: str | Path) -> bytes:
    """Return a regular file's bytes. Raises OSError for everything else."""
    handle = os.open(path, os.O_RDONLY | NONBLOCK)
    try:  # without a file object: a no-op reads an entry for every step
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(errno.EINVAL, "not a regular file", str(path))
        data = os.read(handle, status.st_size + 1)
        if len(data) == status.st_size:
            return data
        pieces = [data]
        while pieces[-1]:
            pieces.append(os.read(handle, 1 << 20))
        return b"".join(pieces)
    finally:
        os.close(handle)


def is_regular(path: str | Path) -> bool:
    """Return whether there is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def is_odd(path: str | Path) -> bool:
    """Return whether something is there that is no regular file, nor a link to one.

    By one look: a file that another process removes meanwhile isn't odd.
    """
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (is_regular(path) if stat.S_ISLNK(mode) else stat.S_ISREG(mode))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex. Raises OSError for what is not a file."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remove_path(path: Path) -> None:
    """Delete whatever has this name, a folder with all that it holds; nothing is as good."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_aside(path: Path) -> None:
    """Rename what lies where a file or folder of another kind has to be.

    Nothing is deleted: it may be somebody's, put there by mistake.
    """
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.aside.{unique_name()[:8]}"))


def make_folder(path: Path, mode: int = 0o777) -> Path:
    """Make a folder with those above it; a file in the way is put aside. Returns it."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        if error.errno not in IN_THE_WAY:
            raise
        for part in (*reversed(path.parents), path):
            if os.path.lexists(part) and not part.is_dir():
                put_aside(part)
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    return path


def change_mark(status: os.stat_result) -> list[int]:
    """Return what changes when a file is written to.

    These are device, inode, size (bytes), and the times of modification and of change (ns).
    """
    return [
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]


def fsync_folder(folder: Path) -> None:
    """Make a rename or a link in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all, with its folder where that is missing.

    What is no file and lies there is put aside.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{unique_name()}")
    try:
        with temporary.open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        replace_any(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def replace_any(source: Path, target: Path) -> None:
    """Rename a file to a name that anything may have; a folder of that name is put aside."""
    try:
        os.replace(source, target)
    except IsADirectoryError:
        put_aside(target)
        os.replace(source, target)


def write_if_possible(path: Path, text: str) -> None:
    """Write a file that only saves time; a folder that can't be written to is passed over."""
    with contextlib.suppress(OSError):
        write_atomic(path, text)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file at a second path too, in place of what is there.

    It is a hard link where the filesystem allows one, else a copy.
    """
    temporary = target.with_name(f".{target.name}.{unique_name()}")
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    replace_any(temporary, target)
    temporary.unlink(missing_ok=True)  # two names of one file: then replacing leaves both


def move_to_quarantine(root: Path, path: Path, companions: Iterable[str] = ()) -> Path:
    """Put a damaged file of the cache at `root` aside; return where it is now.

    companions: suffixes of files beside it that belong to it and go with it where they exist.
    """
    folder = make_folder(root / "quarantine", 0o700)
    target = folder / f"{path.name}.{int(time.time())}.{os.urandom(4).hex()}"
    os.replace(path, target)
    for suffix in companions:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, target.with_name(target.name + suffix))
    return target
