"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal[
    "ok",
    "note",  # works, but could be better
    "off",  # optional and not installed
    "bad",  # something doesn't work: exit code 1
]


@dataclass(frozen=True)
class Check:
    """What was found, and the one command that mends it."""

    name: str
    state: State
    found: str  # in a few words
    mend: str = ""  # a command; "": there is nothing to do, or no command does it
