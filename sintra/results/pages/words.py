"""Write numbers, limits and verdicts as the report and the dashboard show them."""

from __future__ import annotations

import math
import re

from sintra.core.metrics import BY_NAME, DEPTH, find_metric
from sintra.study.json_types import CandidateJson, ConstraintJson, GoalJson, MeasurementJson

LEVEL_TEXTS = {  # level of a proposal -> what is done with it, or the text that it is measured on
    "build": "made",
    "screen": "a quarter of the search text",
    "search": "the search text",
    "report": "the report text",
}
STATUS_TEXTS = {  # status of a result -> badge
    "pass": "Pass",
    "fail": "Fail",
    "impossible": "Impossible",
    "inconclusive": "Inconclusive",
}
KLD_SCALE = (  # mean KLD, nats -> what readers notice; docs/trust.md has the same rows
    (0.001, "nobody can tell"),
    (0.01, "hard to notice"),
    (0.03, "sometimes another word"),
    (0.1, "noticeable"),
    (0.45, "a weaker model"),
)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~])(?:~|\.\.)?(?:/[\w.@+-]+)+/?")
DASH = "\u2013"  # stands for a missing value


def format_bytes(value: float) -> str:
    """Format bytes in MB or GB (10^6, 10^9) with three or four digits."""
    if value >= 1e9:
        return f"{value / 1e9:.2f} GB"
    return f"{value / 1e6:.2f} MB" if value < 1e8 else f"{value / 1e6:.0f} MB"


def format_number(value: float) -> str:
    """Format a number with three digits and no exponent, a thin space between thousands."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits):,.{min(digits, 6)}f}".replace(",", "\u202f")


def format_value(metric: str, value: float | None) -> str:
    """Format a value of a metric with its unit; DASH where there is none."""
    if value is None:
        return DASH
    row = find_metric(metric)
    if row and row.unit == "bytes":
        return format_bytes(value)
    if row and row.unit in ("tokens/s", "nats"):
        return f"{format_number(value)} {row.unit}"
    if row and row.percent:
        return f"{100 * value:.1f} %"
    return f"{value:.4f}"


def format_with_error(value: float, error: float | None) -> str:
    """Format a value with its standard error, to the error's second digit."""
    digits = min(max(1 - math.floor(math.log10(error)), 4), 7) if error else 5
    return f"{value:.{digits}f} \u00b1 {error or 0:.{digits}f}"


def limits_held(count: int) -> str:
    """Return that so many limits hold; "" for none."""
    if count == 0:
        return ""
    return f"all {count} limits hold" if count > 1 else "the limit holds"


def describe_kld(value: float) -> str:
    """Return what readers notice at a mean KLD, nats: the words of the scale's nearest point.

    Nearest as a ratio.
    """
    if value <= 0:
        return "the same model"
    return min(KLD_SCALE, key=lambda row: abs(math.log(value / row[0])))[1]


def metric_label(metric: str) -> str:
    """Return a metric's name in words: `task:fable:retention` is "retention at fable"."""
    task = re.fullmatch(r"task:(.+):(\w+)", metric)
    if task:
        return f"{task[2]} at {task[1]}"
    name, _, depth = metric.partition(DEPTH)
    behind = f" with {depth} tokens in the cache" if depth else ""
    return ((BY_NAME[name].label if name in BY_NAME else "") or name) + behind


def describe_depths(row: CandidateJson) -> str:
    """Return a candidate's speeds with a filled cache in a sentence; "" where there are none."""
    speeds = [
        f"{metric_label(m['metric'])} {format_value(m['metric'], m['value'])} ({m['how']})"
        for m in row["measurements"]
        if DEPTH in m["metric"]
    ]
    return f"Speed: {'; '.join(speeds)}." if speeds else ""


def describe_limit(limit: ConstraintJson) -> str:
    """Return a limit in words, such as "size at most 2.00 MB"."""
    bound = "at most" if limit["op"] == "<=" else "at least"
    return (
        f"{metric_label(limit['metric'])} {bound} {format_value(limit['metric'], limit['limit'])}"
    )


def describe_aim(goal: GoalJson) -> str:
    """Return in words which variant the goal prefers."""
    metric = goal.get("minimise") or goal.get("maximise") or ""
    objective = BY_NAME[metric].objective if metric in BY_NAME else ""
    return objective or f"the variant with the best {metric_label(metric)}"


def measurements_by_metric(row: CandidateJson) -> dict[str, MeasurementJson]:
    """Index the measurements of a candidate in result.json by their metric."""
    return {measurement["metric"]: measurement for measurement in row["measurements"]}


def hide_folders(text: str) -> str:
    """Shorten every absolute path to its last part, so that no folder of this machine is shown."""
    return ABSOLUTE_PATH.sub(lambda m: "\u2026/" + m[0].rstrip("/").rsplit("/", 1)[-1], text)
