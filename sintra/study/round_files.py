"""TODO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sintra.core.canonical import sealed, unsealed
from sintra.core.types import Proposal
from sintra.store.files import write_atomic
from sintra.study.workspace import Workspace

Round = dict[str, Any]


def path_of(workspace: Workspace, number: int) -> Path:
    """The file of a round, counted from 1."""
    return workspace.folder / f"round-{number:02}.json"


def recorded(workspace: Workspace) -> list[Round]:
    """All rounds so far."""
    found: list[Round] = []
    while (given := read(path_of(workspace, len(found) + 1))) is not None:
        found.append(given)
    return found


def read(path: Path) -> Round | None:
    """A recorded round; None for one that isn't as it was written: it is planned anew, and those
    behind it wait for it.
    """
    try:
        given = unsealed(path.read_bytes())
        return (
            given
            if given is not None
            and {"round", "stop"} <= set(given)
            and proposals(given) is not None
            else None
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def ended(workspace: Workspace) -> bool:
    """Whether the last recorded round says that there are no more."""
    paths = sorted(workspace.folder.glob("round-*.json"))
    last = read(paths[-1]) if paths else None
    return last is not None and last["stop"] is not None


def reopen(workspace: Workspace) -> None:
    """Forget the end of a study in which something failed that may pass: the next run tries that
    again.
    """
    known = recorded(workspace)
    if known and known[-1].get("again"):
        path_of(workspace, len(known)).unlink()


def proposals(given: Round) -> list[Proposal]:
    """A round's proposals."""
    return [Proposal.of(p) for p in given["proposals"]]


def write_round(workspace: Workspace, given: Round) -> None:
    """Record a round, whole or not at all."""
    write_atomic(
        path_of(workspace, given["round"]),
        sealed(json.dumps(given, indent=1, sort_keys=True) + "\n"),
    )
