"""The few ways in which work can fail, and how errors are worded."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from sintra.core.text import printable_line

LONGEST_WORD = 80  # characters that are compared: the time grows with their square
CLOSE_ENOUGH = 0.5  # similarity from 0 to 1 (difflib) from which a name is suggested


class UserError(Exception):
    """A mistake of the user's: one line on stderr, exit code 2, nothing started.

    The message may quote others' files, so it is made printable.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable_line(str(message)))


class Infeasible(Exception):
    """A step that can never work as asked for: a cached result, from which the planner learns."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(printable_line(message))
        self.kind = kind
        """One of unsupported, out_of_memory, not_a_number, refused."""


class Transient(Exception):
    """A step that failed for a reason that may pass (network, disk, a kill): never cached."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable_line(str(message)))


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the end of an error line: the valid name that is nearest to a word, or all of them."""
    import difflib  # not on the no-op path

    valid = sorted(names)
    close = difflib.get_close_matches(word[:LONGEST_WORD], valid, n=1, cutoff=CLOSE_ENOUGH)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(valid)}"


def disk_error(error: OSError, root: Path) -> Exception:
    """Return a Transient in one line where the disk is at fault, and any other error as it is.

    root: the file or folder that was to be written.
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
