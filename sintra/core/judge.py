"""Verdicts: pure functions from measurements and limits to met, unmet or undecided."""

from __future__ import annotations

from collections.abc import Iterable

from sintra.core.types import Candidate, Constraint, Goal, Verdict

Z = 2.0


def judge(candidate: Candidate, goal: Goal) -> Verdict:
    """Whether a candidate holds every limit.

    A limit is violated when the value breaks it. While a candidate is only measured on the search
    text, a value within two standard errors of its limit leaves it undecided, and so does a metric
    that is not known yet, or that is only simulated (unless the goal accepts that).
    """
    if candidate.failure:
        return Verdict(
            "infeasible", reason=f"{candidate.failure.kind}: {candidate.failure.message}"
        )
    violated, unknown = [], []
    for limit in goal.constraints:
        found = candidate.find(limit.metric)
        if found is None:
            unknown.append(limit.metric)
            continue
        excess = limit.excess(found.value)
        slack = 0.0 if candidate.decided else Z * (found.stderr or 0.0)
        if excess > slack:
            violated.append((limit.metric, found.value, limit.limit, excess))
        elif excess > 0 or (found.how == "simulated" and not goal.accept_simulated):
            unknown.append(limit.metric)
    violated.sort(key=lambda v: -relative(v))
    if violated:
        return Verdict("unmet", tuple(violated), tuple(unknown))
    return Verdict("undecided" if unknown or not candidate.decided else "met", (), tuple(unknown))


def relative(violation: tuple[str, float, float, float]) -> float:
    """A violation as a share of its limit, so that megabytes and nats can be compared."""
    return violation[3] / abs(violation[2]) if violation[2] else float("inf")


def ranked(candidates: Iterable[Candidate], goal: Goal) -> list[Candidate]:
    """The best first: what holds every limit by the goal's metric (equal ones by the least damage),
    then the rest by how far the worst limit is missed.

    Candidates that could not be built are left out.
    """

    def place(candidate: Candidate) -> tuple[int, float, float, float, str]:
        verdict = judge(candidate, goal)
        value = candidate.value(goal.optimise)
        score = float("inf") if value is None else goal.sense * value
        worst = max((relative(v) for v in verdict.violated), default=0.0)
        damage = candidate.value("kld_mean")
        damage = float("inf") if damage is None else damage
        return (1 if verdict.violated else 0, worst, score, damage, candidate.recipe.name)

    return sorted((c for c in candidates if not c.failure and c.measurements), key=place)


def impossible(goal: Goal, bounds: dict[str, float]) -> tuple[Constraint, float] | None:
    """The limit that no variant can hold, with the best possible value, where arithmetic shows it."""
    for limit in goal.constraints:
        if limit.metric in bounds and limit.excess(bounds[limit.metric]) > 0:
            return limit, bounds[limit.metric]
    return None
