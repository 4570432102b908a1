"""Name, hash, write and link files: whole or not at all, and durable where that matters."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path


def unique_name() -> str:
    """Return 32 random hex digits: a name that no other process takes."""
    return os.urandom(16).hex()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def change_mark(stat: os.stat_result) -> list[int]:
    """Return what changes when a file is written to.

    These are device, inode, size (bytes), and the times of modification and of change (ns).
    """
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def fsync_folder(folder: Path) -> None:
    """Make a rename or a link in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all, with its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{unique_name()}")
    try:
        with temporary.open("w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


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
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # two names of one file: then replacing leaves both


def move_to_quarantine(root: Path, path: Path, companions: Iterable[str] = ()) -> Path:
    """Put a damaged file of the cache at `root` aside; return where it is now.

    companions: suffixes of files beside it that belong to it and go with it where they exist.
    """
    folder = root / "quarantine"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{path.name}.{int(time.time())}.{os.urandom(4).hex()}"
    os.replace(path, target)
    for suffix in companions:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, target.with_name(target.name + suffix))
    return target
