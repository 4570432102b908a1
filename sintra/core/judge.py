"""Verdicts: pure functions from measurements and limits to pass, fail or inconclusive."""

from __future__ import annotations

from collections.abc import Iterable

from sintra.core.recipe import variant_slug
from sintra.core.types import Candidate, Constraint, Goal, Measurement, Status, Verdict

SLACK_STDERRS = 2.0  # standard errors by which a value on the search text may miss a limit


def judge(candidate: Candidate, goal: Goal) -> Verdict:
    """Judge whether a candidate holds every limit.

    A limit is violated when the value breaks it. While a candidate is only measured on the search
    text, a value within two standard errors of its limit leaves it inconclusive; a KLD does while
    the 90 % interval of what the report text should say (Candidate.expected) reaches the limit. So
    does a metric that is not known yet, or that is only simulated (unless the goal accepts that).
    """
    if candidate.failure:
        return Verdict(
            "impossible", reason=f"{candidate.failure.kind}: {candidate.failure.message}"
        )
    violated, unknown = [], []
    for limit in goal.constraints:
        row = row_to_judge(candidate, limit.metric)
        if row is None:
            unknown.append(limit.metric)
            continue
        excess = limit.excess(row.value)
        slack = 0.0 if candidate.decided else slack_of(row)
        if excess > slack:
            violated.append((limit.metric, row.value, limit.limit, excess))
        elif excess > 0 or (row.how == "simulated" and not goal.accept_simulated):
            unknown.append(limit.metric)
    violated.sort(key=lambda v: -relative_excess(v))
    if violated:
        return Verdict("fail", tuple(violated), tuple(unknown))
    status: Status = "inconclusive" if unknown or not candidate.decided else "pass"
    return Verdict(status, (), tuple(unknown))


def row_to_judge(candidate: Candidate, metric: str) -> Measurement | None:
    """Return the row that a limit on a metric is judged by, or None where it is not known."""
    if metric == "kld_mean" and not candidate.decided and candidate.expected is not None:
        return candidate.expected
    return candidate.find(metric)


def slack_of(row: Measurement) -> float:
    """Return by how much a value that doesn't decide yet may break a limit, in its unit."""
    if row.how == "estimated" and row.low is not None and row.metric == "kld_mean":
        return row.value - row.low
    return SLACK_STDERRS * (row.stderr or 0.0)


def relative_excess(violation: tuple[str, float, float, float]) -> float:
    """Return a violation as a share of its limit, so that megabytes and nats can be compared."""
    _, _, limit, excess = violation
    return excess / abs(limit) if limit else float("inf")


def ranked(candidates: Iterable[Candidate], goal: Goal) -> list[Candidate]:
    """Return the candidates from best to worst, without those that could not be built.

    First those that hold every limit, by the goal's metric, and equal ones by mean KLD; then the
    rest by how far they miss the worst limit.
    """

    def place(candidate: Candidate) -> tuple[int, float, float, float, str]:
        verdict = judge(candidate, goal)
        value, kld = candidate.value(goal.optimise), candidate.value("kld_mean")
        return (
            1 if verdict.violated else 0,
            max((relative_excess(v) for v in verdict.violated), default=0.0),
            float("inf") if value is None else goal.sense * value,
            float("inf") if kld is None else kld,
            variant_slug(candidate.recipe),
        )

    return sorted((c for c in candidates if not c.failure and c.measurements), key=place)


def settled(candidates: Iterable[Candidate], goal: Goal) -> list[Candidate]:
    """Return the candidates as `ranked`, but those that are proven to hold every limit first, and
    behind them those that nothing speaks against.

    At a study's end, what might hold the limits and wasn't worth a measurement doesn't win.
    """

    def doubt(candidate: Candidate) -> int:
        verdict = judge(candidate, goal)
        if verdict.status == "inconclusive":
            return 2 if "kld_mean" in verdict.unknown else 1
        return 0 if verdict.status == "pass" else 2

    return sorted(ranked(candidates, goal), key=doubt)


def impossible_limit(goal: Goal, bounds: dict[str, float]) -> tuple[Constraint, float] | None:
    """Return the first limit that no variant can hold, with the best possible value; else None.

    bounds: metric -> the best value that arithmetic allows.
    """
    for limit in goal.constraints:
        if limit.metric in bounds and limit.excess(bounds[limit.metric]) > 0:
            return limit, bounds[limit.metric]
    return None
