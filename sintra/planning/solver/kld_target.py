"""The KLD on the search text that a study's limits on quality allow."""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.metrics import QUALITY
from sintra.core.types import Constraint
from sintra.planning.solver.problem import is_quality
from sintra.planning.state import StudyResults


def kld_target(study: Study, results: StudyResults, log_sd: float) -> float:
    """Return the KLD to foresee on the search text, in nats; infinite without a limit.

    The report text decides: what it will say is a belief (sintra.planning.belief), of which a part
    is above the limit. Limits on other metrics of quality become one on the KLD, by the measured
    candidates between which they lie. log_sd: the error of what is foreseen, of the logarithm.
    """
    limits = [c for c in study.goal.constraints if is_quality(c.metric)]
    if not limits:
        return float("inf")
    targets = [c.limit for c in limits if c.metric == "kld_mean"]
    for limit in (c for c in limits if c.metric != "kld_mean"):
        points = measured_excess(limit, results)
        # Tasks of lm-eval that keep no score of their own have no points.
        if points or limit.metric in QUALITY:
            targets.append(kld_at_limit(points))
    allowed = min(targets, default=float("inf"))
    if not 0 < allowed < float("inf"):
        return allowed
    return results.text_ratio(allowed).target(allowed, log_sd)


def measured_excess(limit: Constraint, results: StudyResults) -> list[tuple[float, float]]:
    """Return (KLD, by how much the limit is broken) of every result that has the limit's metric."""
    return [
        (result.metrics["kld_mean"].value, limit.excess(result.metrics[limit.metric].value))
        for result in results.text_results
        if limit.metric in result.metrics
    ]


def kld_at_limit(points: list[tuple[float, float]]) -> float:
    """Return the KLD at which a limit is just held, from (KLD, excess) of measured mixes.

    It lies between the worst that holds the limit and the best that breaks it, linear in the KLD's
    logarithm; 0 where nothing was measured.
    """
    holding = max((p for p in points if p[1] <= 0 and p[0] > 0), default=None)
    breaking = min((p for p in points if p[1] > 0), default=None)
    if holding is None or breaking is None or breaking[0] <= holding[0]:
        return min((p[0] for p in (holding, breaking) if p is not None), default=0.0)
    share: float = -holding[1] / (breaking[1] - holding[1])
    return float(holding[0] * (breaking[0] / holding[0]) ** share)
