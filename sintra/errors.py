"""The few ways in which work can end other than well."""

from __future__ import annotations

from collections.abc import Iterable

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
