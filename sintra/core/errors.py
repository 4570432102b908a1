"""The few ways in which work can end other than well."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

LONGEST = 80  # of a word that is compared with others: that takes time with the square of it


class UserError(Exception):
    """A mistake of the user's: one line on stderr, exit code 2, nothing started."""


class Infeasible(Exception):
    """A step can never work as asked for: a result, cached, from which the planner learns.

    kind: one of unsupported, out_of_memory, not_a_number, refused.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Transient(Exception):
    """A step failed for a reason that may pass (network, disk, a kill): never cached."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest valid name, or all of them."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(word[:LONGEST], names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(names)}"


def disk_trouble(error: OSError, root: Path) -> Exception:
    """The error as Transient, in one line, where it is the disk's; anything else as it is. root:
    what was to be written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Transient(
            f"no space left on the disk of {root}: free some (`doit gc` helps) and run the same "
            "again"
        )
    if error.errno == errno.EFBIG:
        return Transient(
            f"a file may not grow on at {root}: its disk or a limit (ulimit -f) forbids it; then "
            "run the same again"
        )
    if error.errno == errno.EROFS:
        return Transient(f"{root} is read-only: what it holds serves, nothing new can be built")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Transient(f"{error.filename or root}: permission denied")
    return error
