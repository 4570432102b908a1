"""How numbers, limits and options are said wherever people look at them: the report and the
dashboard.
"""

from __future__ import annotations

import math
import re
from typing import Any

from sintra.study.json_types import CandidateJson, MeasurementJson

Row = dict[str, Any]
NAMES = {
    "size_bytes": "size",
    "kld_mean": "mean KL divergence",
    "kld_p999": "99.9 % KL divergence",
    "same_top": "same top token",
    "ppl_ratio": "perplexity ratio",
    "device_tg_tps": "generation",
    "device_pp_tps": "prompt processing",
    "device_tg_tps_sustained": "generation when hot",
    "device_ram_bytes": "memory",
    "tg_tps": "generation here",
    "pp_tps": "prompt processing here",
    "bits_per_byte": "bits per byte of text",
}
AIMS = {
    "size_bytes": "the smallest variant",
    "kld_mean": "the least damaged variant",
    "same_top": "the variant with the most equal top tokens",
    "kld_p999": "the variant least damaged at its worst",
    "ppl_ratio": "the variant with the least rise in perplexity",
    "device_ram_bytes": "the variant with the least memory",
    "device_tg_tps": "the fastest variant",
    "device_pp_tps": "the variant fastest at reading prompts",
    "device_tg_tps_sustained": "the variant fastest when hot",
}
LEVELS = {
    "build": "made",
    "screen": "a quarter of the search text",
    "search": "the search text",
    "report": "the report text",
}
STATUS = {
    "met": "All limits hold",
    "unmet": "Not all limits hold",
    "infeasible": "Nothing can hold the limits",
    "undecided": "Not decided",
}
PATH = re.compile(r"(?<![\w.:/~])(?:~|\.\.)?(?:/[\w.@+-]+)+/?")


def bytes_said(value: float) -> str:
    """Bytes in MB or GB (10^6, 10^9), three or four digits."""
    return (
        f"{value / 1e9:.2f} GB"
        if value >= 1e9
        else f"{value / 1e6:.2f} MB"
        if value < 1e8
        else f"{value / 1e6:.0f} MB"
    )


def plain(value: float) -> str:
    """A number of three digits without an exponent, thousands set apart by a thin space."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits):,.{min(digits, 6)}f}".replace(",", "\u202f")


def said(metric: str, value: float | None) -> str:
    """A value of a metric with its unit."""
    if value is None:
        return "\u2013"
    if metric.endswith("_bytes"):
        return bytes_said(value)
    if "tps" in metric:
        return f"{plain(value)} tokens/s"
    if "kld" in metric:
        return f"{plain(value)} nats"
    if metric == "same_top" or metric.endswith((":acc", ":retention", ":agreement")):
        return f"{100 * value:.1f} %"
    return f"{value:.4f}"


def with_error(value: float, error: float | None) -> str:
    """A value with its standard error, to the error's second digit."""
    digits = min(max(1 - math.floor(math.log10(error)), 4), 7) if error else 5
    return f"{value:.{digits}f} \u00b1 {error or 0:.{digits}f}"


def named(metric: str) -> str:
    """A metric in words: `task:fable:retention` is the score kept at fable."""
    task = re.fullmatch(r"task:(.+):(\w+)", metric)
    return f"{task[2]} at {task[1]}" if task else NAMES.get(metric, metric)


def limit_said(limit: Row) -> str:
    """A limit as a person would say it."""
    return (
        f"{named(limit['metric'])} {'at most' if limit['op'] == '<=' else 'at least'} "
        f"{said(limit['metric'], limit['limit'])}"
    )


def aim_said(goal: Row) -> str:
    """What the goal makes best."""
    metric = goal.get("minimise") or goal.get("maximise") or ""
    return AIMS.get(metric, f"the variant with the best {named(metric)}")


def numbers(row: CandidateJson) -> dict[str, MeasurementJson]:
    """Metric -> measurement of a candidate in result.json."""
    return {m["metric"]: m for m in row["measurements"]}


def verdict_said(row: CandidateJson) -> str:
    """A candidate's verdict in a few words."""
    verdict = row["verdict"]
    if row["failure"]:
        return f"failed: {row['failure']['kind']}"
    if verdict["violated"]:
        return f"misses {named(verdict['violated'][0][0])}"
    if (
        verdict["status"] == "undecided"
        and row["decided_on"] == "search"
        and not verdict["unknown"]
    ):
        return "holds on search text"
    return {"met": "holds", "undecided": "undecided"}.get(verdict["status"], str(verdict["status"]))


def discreet(text: str) -> str:
    """A text without folders of the machine it was written on: of an absolute path only the last
    part is left.
    """
    return PATH.sub(lambda m: "\u2026/" + m[0].rstrip("/").rsplit("/", 1)[-1], text)
