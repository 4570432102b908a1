"""What listeners hear of a study, and what a listener is. Standard library only.

A listener runs in a process of its own (sintra.integrations.listeners.reader), at the lowest priority, and reads events
from a file: it can't block or fail a study, and its study doesn't wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["started", "round", "candidate", "met", "unmet", "failed"]
ENDS = ("met", "unmet", "failed")


@dataclass(frozen=True)
class Event:
    """Something that happened in a study.

    started: what is wanted (model, hardware, goal, planner, params); round: a round is over
    (number, proposals, stop); candidate: a variant has been measured in it, a row of result.json
    with its name; met, unmet: the study has ended (status, winner, counts;
    outputs/<study>/result.json has the rest; undecided and infeasible come as unmet); failed: it
    has stopped (reason). at: seconds since the epoch.
    """

    kind: Kind
    study: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Where a listener is: its study's options (the composed configuration), the project's folder
    and the cache.
    """

    options: dict[str, Any]
    root: Path
    cache: Path

    def folder(self, study: str) -> Path:
        """A study's result."""
        return self.root / "outputs" / study


class Hearing(Protocol):
    """A listener at work."""

    def hear(self, event: Event) -> None:
        """Called for each event, in order. What it raises is a line in the listener's log."""

    def close(self) -> None:
        """No more events will come, be it that the study was stopped without an end."""


@dataclass(frozen=True)
class Listener:
    """A kind of listener, as entry points name it.

    open: called in the listener's own process; check: called before a study starts, raises
    UserError where something is missing (a variable, a package) and must be quick.
    """

    name: str
    open: Callable[[Setting], Hearing]
    check: Callable[[dict[str, Any]], None] = lambda options: None
