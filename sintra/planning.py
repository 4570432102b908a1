"""What every planner is given."""

from __future__ import annotations

from dataclasses import dataclass

from sintra.types import Candidate


@dataclass(frozen=True)
class History:
    """All candidates so far, in the order in which they were proposed, and the model's number of blocks once known."""

    candidates: tuple[Candidate, ...]
    layers: int | None
