"""A disk that is full, read-only or closed to us, in words."""

from __future__ import annotations

import errno
from pathlib import Path

from sintra.errors import Transient


def disk_trouble(error: OSError, root: Path) -> Exception:
    """The error as Transient, in one line, where it is the disk's; anything else as it is. root:
    what was to be written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient(
            
                f"no space left on the disk of {root}: free some (`doit gc` helps) and run the "
                "same "
                "again"
            
        )
    if error.errno == errno.EFBIG:
        return Transient(
            
                f"a file may not grow on at {root}: its disk or a limit (ulimit -f) forbids it; "
                "then "
                "run the same again"
            
        )
    if error.errno == errno.EROFS:
        return Transient(f"{root} is read-only: what it holds serves, nothing new can be built")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Transient(f"{error.filename or root}: permission denied")
    return error
