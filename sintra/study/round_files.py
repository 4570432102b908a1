"""Rounds as files in the study's folder of the cache: read, write, reopen."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from sintra.core.canonical import sealed, unsealed
from sintra.core.types import Proposal
from sintra.store.files import read_regular, remove_path, write_atomic
from sintra.study.json_types import LessonJson, ProposalJson, RoundJson
from sintra.study.workspace import Workspace

TEXTS = ("why", "author", "level", "probe")  # fields of a proposal


@dataclass(frozen=True)
class Round:
    """What was proposed at once, to be built and measured before the next proposals."""

    number: int  # counted from 1
    proposals: tuple[Proposal, ...] = ()
    stop: str | None = None  # why the study ends with this round; None while it goes on
    again: bool | None = None  # last rounds only: whether the next run reopens the study
    learned: LessonJson | None = None  # last rounds only: what the study teaches later ones

    @property
    def is_last(self) -> bool:
        """Whether the study ends with this round."""
        return self.stop is not None

    def to_json(self) -> RoundJson:
        """Return the JSON form."""
        data: RoundJson = {
            "round": self.number,
            "proposals": [cast(ProposalJson, asdict(p)) for p in self.proposals],
            "stop": self.stop,
        }
        if self.again is not None:
            data["again"] = self.again
        if self.again is not None or self.learned is not None:
            data["learned"] = self.learned
        return data

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Round:
        """Return the round of a JSON form. Raises KeyError, TypeError, ValueError and
        AttributeError for what isn't one.
        """
        return cls(
            number=data["round"],
            proposals=tuple(Proposal.of(p) for p in data["proposals"]),
            stop=data["stop"],
            again=data.get("again"),
            learned=data.get("learned"),
        )


def round_path(workspace: Workspace, number: int) -> Path:
    """Return the file of a round; numbers count from 1."""
    return workspace.folder / f"round-{number:02}.json"


def read_rounds(workspace: Workspace) -> list[Round]:
    """Read all rounds up to the first that is missing or damaged."""
    rounds: list[Round] = []
    while (recorded := read_round(round_path(workspace, len(rounds) + 1))) is not None:
        rounds.append(recorded)
    return rounds


def read_round(path: Path) -> Round | None:
    """Read a recorded round; None for a file that isn't as it was written.

    Such a round is planned again, and those behind it wait for it.
    """
    try:
        data = unsealed(read_regular(path))
        return None if data is None or not _has_types(data) else Round.of_json(data)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _has_types(data: dict[str, Any]) -> bool:
    """Return whether a round's own fields have the types that they should have."""
    texts = [data["stop"] or "", *(p.get(name, "") for p in data["proposals"] for name in TEXTS)]
    return type(data["round"]) is int and all(isinstance(text, str) for text in texts)


def study_ended(workspace: Workspace) -> bool:
    """Return whether the last recorded round ends the study."""
    paths = sorted(workspace.folder.glob("round-*.json"))
    last = read_round(paths[-1]) if paths else None
    return last is not None and last.is_last


def reopen_study(workspace: Workspace) -> None:
    """Delete the last round of a study in which something failed that may pass.

    The next run tries that again.
    """
    rounds = read_rounds(workspace)
    if rounds and rounds[-1].again:
        remove_path(round_path(workspace, len(rounds)))


def write_round(workspace: Workspace, new_round: Round) -> None:
    """Record a round, whole or not at all."""
    write_atomic(
        round_path(workspace, new_round.number),
        sealed(json.dumps(new_round.to_json(), indent=1, sort_keys=True) + "\n"),
    )
