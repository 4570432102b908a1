"""Say a verdict in a few words: the same in the terminal, the report, the dashboard and CI."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sintra.core.metrics import find_metric
from sintra.core.types import Candidate, Status, Verdict, Violation
from sintra.study.json_types import CandidateJson

SHORT = {  # metric -> what fits a narrow column
    "size_bytes": "size",
    "kld_mean": "KLD",
    "kld_p999": "KLD 99.9 %",
    "same_top": "same top",
    "device_tg_tps": "speed",
    "device_tg_tps_sustained": "sustained",
    "device_pp_tps": "prompt speed",
    "device_ram_bytes": "memory",
}
ON_VALIDATION = "pass (validation)"  # as far as the search text tells; the report text decides


def verdict_words(candidate: Candidate, verdict: Verdict) -> str:
    """Return a candidate's verdict in a few words."""
    failure = candidate.failure.kind if candidate.failure else ""
    return _words(verdict.status, verdict.violated, verdict.unknown, candidate.decided, failure)


def row_words(row: CandidateJson) -> str:
    """Return the verdict of a candidate of result.json in a few words."""
    verdict, failure = row["verdict"], row["failure"]["kind"] if row["failure"] else ""
    decided = row["decided_on"] == "report"
    return _words(verdict["status"], verdict["violated"], verdict["unknown"], decided, failure)


def _words(
    status: Status,
    violated: Sequence[Violation],
    unknown: Sequence[str],
    decided: bool,
    failure: str,
) -> str:
    if failure:
        return f"failed: {failure}"
    if violated:
        return f"fail: {short_label(violated[0][0])}"
    return ON_VALIDATION if status == "inconclusive" and not decided and not unknown else status


def short_label(metric: str) -> str:
    """Return a metric's name for a narrow column."""
    if task := re.fullmatch(r"task:(.+):\w+", metric):
        return f"task {task[1]}"
    row = find_metric(metric)
    return SHORT.get(metric) or (row.label if row else "") or metric


def violation_words(violation: Violation) -> str:
    """Return a limit that isn't held, with both numbers: `KLD 0.0249 nats, limit 0.02 nats`."""
    metric, value, limit, _ = violation
    return f"{short_label(metric)} {in_unit(metric, value)}, limit {in_unit(metric, limit)}"


def in_unit(metric: str, value: float) -> str:
    """Return a value with its unit in at most four digits: bytes in MB, shares in percent."""
    row = find_metric(metric)
    if row and row.unit == "bytes":
        return f"{value / 1e6:.4g} MB"
    if row and row.percent:
        return f"{100 * value:.4g} %"
    unit = f" {row.unit}" if row and row.unit != "1" else ""
    return f"{value:.4g}{unit}"
