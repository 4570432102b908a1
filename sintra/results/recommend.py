"""Which of several models to take for a device, and why: pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sintra.results.result import model_file
from sintra.study.json_types import CandidateJson, CellJson

Z = 2.0  # standard errors of a difference that count as more than noise
BITS_PER_BYTE = ("bits_per_byte",)

Metrics = tuple[str, ...]
"""What models are compared by: accuracies at tasks, or BITS_PER_BYTE."""


class Score(NamedTuple):
    """A model's quality; smaller is better."""

    value: float  # mean error rate over tasks, or bits per byte of text
    stderr: float

    def clearly_beats(self, other: Score) -> bool:
        """Return whether this is better by more than Z standard errors of the difference, the two
        taken as independent.
        """
        return other.value - self.value > Z * math.hypot(self.stderr, other.stderr)


def recommend(results: Sequence[CellJson]) -> list[str]:
    """Return lines for each device: the model to take, then why not the others.

    That is the model whose variant holds the limits and is the best at the tasks that all have, or
    by bits per byte of text where there are none; of two that can't be told apart, the smaller.
    """
    lines = []
    for device in dict.fromkeys(r["hardware"] for r in results):
        lines += recommend_for(device, [r for r in results if r["hardware"] == device])
    return lines


def recommend_for(device: str, results: Sequence[CellJson]) -> list[str]:
    """Return the choice for one device, and a line for each model that isn't chosen."""
    passing = [r for r in results if r["status"] == "pass"]
    others = [f"  not {label(r, results)}: {missed_limit(r)}" for r in results if r not in passing]
    if not passing:
        return [f"{device}: none of these models can be recommended", *others]
    metrics = common_metrics(passing)
    if metrics is None:
        return [f"{device}: the models share no measure of quality to compare by", *others]
    best_score = min((score(r, metrics) for r in passing), key=lambda s: s.value)
    equal = [r for r in passing if not best_score.clearly_beats(score(r, metrics))]
    choice = min(equal, key=model_bytes)
    why = describe(choice, metrics)
    if len(equal) > 1:
        why += ", the smallest of those with no clear difference"
    losers = [
        f"  not {label(r, results)}: {loser_reason(r, metrics, r in equal)}"
        for r in passing
        if r is not choice
    ]
    return [f"{device}: take {label(choice, results)} ({why})", *losers, *others]


def label(result: CellJson, among: Sequence[CellJson]) -> str:
    """Return the model's name, with the study's where several share it."""
    shared = sum(r["model"] == result["model"] for r in among) > 1
    return f"{result['model']} ({result['study']})" if shared else str(result["model"])


def common_metrics(results: Sequence[CellJson]) -> Metrics | None:
    """Return the tasks that every result was measured on, else bits per byte, else None."""
    shared = set.intersection(*(set(winner_numbers(r)) for r in results))
    tasks = tuple(sorted(k for k in shared if k.startswith("task:") and k.endswith(":acc")))
    return tasks or (BITS_PER_BYTE if set(BITS_PER_BYTE) <= shared else None)


def winner_numbers(result: CellJson) -> dict[str, tuple[float, float]]:
    """Return metric -> (value, standard error) of the winner."""
    return {
        m["metric"]: (m["value"], m.get("stderr") or 0.0) for m in winner(result)["measurements"]
    }


def winner(result: CellJson) -> CandidateJson:
    """Return the winner of a result that has one."""
    candidate = result["winner"]
    assert candidate is not None
    return candidate


def score(result: CellJson, metrics: Metrics) -> Score:
    """Return the winner's quality by the common metrics."""
    all_numbers = winner_numbers(result)
    numbers = [all_numbers[metric] for metric in metrics]
    error = math.sqrt(sum(stderr * stderr for _, stderr in numbers)) / len(numbers)
    mean = sum(value for value, _ in numbers) / len(numbers)
    return Score(mean if metrics == BITS_PER_BYTE else 1 - mean, error)


def describe(result: CellJson, metrics: Metrics) -> str:
    """Return the winner's quality and size in words."""
    return f"{describe_quality(result, metrics)}, {model_bytes(result) / 1e6:.2f} MB"


def describe_quality(result: CellJson, metrics: Metrics) -> str:
    """Return the winner's quality in words."""
    value, error = score(result, metrics)
    if metrics == BITS_PER_BYTE:
        return f"{value:.4f} +-{error:.4f} bits per byte"
    tasks = " and ".join(metric.split(":")[1] for metric in metrics)
    return f"{1 - value:.3f} +-{error:.3f} of {tasks} right"


def loser_reason(result: CellJson, metrics: Metrics, equal: bool) -> str:
    """Return why a model that holds the limits isn't chosen."""
    if not equal:
        return f"worse: {describe(result, metrics)}"
    quality, size = describe_quality(result, metrics), model_bytes(result) / 1e6
    return f"as good within noise ({quality}), and larger: {size:.2f} MB"


def missed_limit(result: CellJson) -> str:
    """Return why a model doesn't hold the limits."""
    best = result["winner"]
    if not best or not best["verdict"]["violated"]:
        return result["reason"] or result["status"]
    metric, value, limit, _ = best["verdict"]["violated"][0]
    return f"its {metric} is {value:.6g} at best where the limit is {limit:.6g}"


def model_bytes(result: CellJson) -> int:
    """Return the size of the winner."""
    return model_file(winner(result))["bytes"]
