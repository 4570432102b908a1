"""Say that a limit on the KLD is below what the searched types reach, once their best is known.

The highest type everywhere isn't the 16-bit model: llama.cpp rounds activations to 8 bits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sintra.config.study import Study
from sintra.core.types import Candidate

PLANNERS = ("solver", "hybrid")  # they measure their highest type in the first round
FINISHED = 0.8  # of a KLD that refining and polishing the highest type may leave at best
SIGMAS = 2  # standard errors by which the floor must lie above the limit
NEXT = 2  # number of the round behind the first


def floor_reason(study: Study, candidates: Sequence[Candidate], round_number: int) -> str | None:
    """Return why no mix of the planner's types can hold the limit on the KLD; None where one may.

    It is asked once, behind the first round, whose best is the highest type everywhere.
    """
    limits = [c for c in study.goal.constraints if c.metric == "kld_mean"]
    if round_number != NEXT or study.planner.name not in PLANNERS or not limits:
        return None
    found = [(row, c) for c in candidates if (row := c.find("kld_mean"))]
    if not found:
        return None
    best, candidate = min(found, key=lambda pair: pair[0].value)
    limit = min(limits, key=lambda c: c.limit)
    if best.value * FINISHED - SIGMAS * (best.stderr or 0.0) <= limit.limit:
        return None
    name = candidate.label
    return (
        f"impossible: {limit.option} asks for kld_mean {limit.op} {limit.limit:g} nats, and "
        f"{name}, the best that planner.types has, is at {best.value:.2g} on the search text: "
        "allow more"
    )
