"""What listeners hear of a study, and what a listener is. Standard library only.

A listener runs in a process of its own (sintra.integrations.listeners.reader), at the lowest
priority, and reads events from a file. It can't block or fail a study, and its study doesn't wait
for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal[
    "started",  # the study begins; data: model, hardware, goal, planner and other parameters
    "round",  # a round is over; data: number, proposals, stop
    "candidate",  # a variant was measured in it; data: its row of result.json, with its name
    "met",  # the study has ended and every limit holds; data: status, winner, counts
    "unmet",  # it has ended otherwise, also inconclusive or impossible; data: the same
    "failed",  # it has stopped without a result; data: reason
]
ENDS: tuple[Kind, ...] = ("met", "unmet", "failed")


@dataclass(frozen=True)
class Event:
    """Something that happened in a study; outputs/<study>/result.json has the rest."""

    kind: Kind
    study: str  # its id, which is also the name of its folder in outputs/
    at: float  # seconds since the epoch
    data: dict[str, Any] = field(default_factory=dict)  # JSON; its keys depend on the kind


@dataclass(frozen=True)
class Setting:
    """Where a listener is at work."""

    options: dict[str, Any]  # its study's options: the composed configuration
    root: Path  # the project's folder
    cache: Path  # the store's folder

    def folder(self, study: str) -> Path:
        """Return the folder of a study's result."""
        return self.root / "outputs" / study


class Hearing(Protocol):
    """A listener at work."""

    def hear(self, event: Event) -> None:
        """Take an event; they come in order. What this raises is a line in the listener's log."""

    def close(self) -> None:
        """Clean up: no more events will come, even if the study was stopped without an end."""


def _nothing_to_check(options: dict[str, Any]) -> None:
    """Find nothing missing."""


@dataclass(frozen=True)
class Listener:
    """A kind of listener, as entry points name it."""

    name: str
    open: Callable[[Setting], Hearing]  # called in the listener's own process
    check: Callable[[dict[str, Any]], None] = _nothing_to_check
    """Called with the study's options before a study starts. Raises UserError where something is
    missing (a variable, a package), and must be quick."""
