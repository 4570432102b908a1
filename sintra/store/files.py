"""TODO."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path


def unique() -> str:
    """A name that nobody else takes."""
    return os.urandom(16).hex()


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def mark(stat: os.stat_result) -> list[int]:
    """What changes when a file is written to."""
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def fsync_folder(folder: Path) -> None:
    """Make a rename or a link in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{unique()}")
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


def keep(path: Path, text: str) -> None:
    """Write what only saves time, where that can be done."""
    with contextlib.suppress(OSError):
        write_atomic(path, text)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file at a second path, in place of what is there: a hard link where the filesystem
    allows one, else a copy.
    """
    temporary = target.with_name(f".{target.name}.{unique()}")
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # two names of one file: then replacing leaves both
