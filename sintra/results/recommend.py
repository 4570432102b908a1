"""Which of several models to take for a device, and why: pure."""

from __future__ import annotations

import math
from typing import Any

Result = dict[str, Any]
Z = 2.0


def recommend(results: list[Result]) -> list[str]:
    """A line for each device: the model whose variant holds the limits and is the best at the tasks
    that all were given, or by bits per byte of text where there are none; of two that can't be told
    apart, the smaller. Then why not the others.
    """
    lines = []
    for device in dict.fromkeys(r["hardware"] for r in results):
        lines += for_device(device, [r for r in results if r["hardware"] == device])
    return lines


def for_device(device: str, results: list[Result]) -> list[str]:
    """The choice, and a line for each that wasn't chosen."""
    held = [r for r in results if r["status"] == "met"]
    others = [f"  not {label(r, results)}: {missed(r)}" for r in results if r not in held]
    if not held:
        return [f"{device}: none of these models can be recommended", *others]
    measure = common(held)
    if measure is None:
        return [f"{device}: the models share no measure of quality to compare by", *others]
    first = min(held, key=lambda r: worth(r, measure)[0])
    equal = [r for r in held if not clearly(worth(first, measure), worth(r, measure))]
    best = min(equal, key=size)
    why = f"{told(best, measure)}, {size(best) / 1e6:.2f} MB"
    if len(equal) > 1:
        why += ", the smaller of those that can't be told apart"
    losers = [
        f"  not {label(r, results)}: {lost(r, best, measure, r in equal)}"
        for r in held
        if r is not best
    ]
    return [f"{device}: take {label(best, results)} ({why})", *losers, *others]


def label(result: Result, among: list[Result]) -> str:
    """The model's name, with the study's where several share it."""
    same = sum(r["model"] == result["model"] for r in among) > 1
    return f"{result['model']} ({result['study']})" if same else str(result["model"])


def numbers(result: Result) -> dict[str, tuple[float, float]]:
    """metric -> (value, standard error) of the winner."""
    return {
        m["metric"]: (m["value"], m.get("stderr") or 0.0) for m in result["winner"]["measurements"]
    }


def common(results: list[Result]) -> tuple[str, ...] | None:
    """The tasks that every result was measured on, else bits per byte, else None."""
    shared = set.intersection(*(set(numbers(r)) for r in results))
    tasks = tuple(sorted(k for k in shared if k.startswith("task:") and k.endswith(":acc")))
    return tasks or (("bits_per_byte",) if "bits_per_byte" in shared else None)


def worth(result: Result, measure: tuple[str, ...]) -> tuple[float, float]:
    """What is to be small, and its standard error: the mean error rate over tasks, or bits per
    byte.
    """
    found = [numbers(result)[k] for k in measure]
    error = math.sqrt(sum(s * s for _, s in found)) / len(found)
    value = sum(v for v, _ in found) / len(found)
    return (value if measure == ("bits_per_byte",) else 1 - value), error


def clearly(one: tuple[float, float], two: tuple[float, float]) -> bool:
    """Whether the first is better by more than noise: two standard errors of the difference, taken
    as independent.
    """
    return two[0] - one[0] > Z * math.hypot(one[1], two[1])


def told(result: Result, measure: tuple[str, ...]) -> str:
    """The quality in words."""
    value, error = worth(result, measure)
    if measure == ("bits_per_byte",):
        return f"{value:.4f} +-{error:.4f} bits a byte"
    return (
        f"{1 - value:.3f} +-{error:.3f} of {' and '.join(k.split(':')[1] for k in measure)} right"
    )


def lost(result: Result, best: Result, measure: tuple[str, ...], equal: bool) -> str:
    """Why a model that holds the limits wasn't taken."""
    if equal:
        return (
            f"as good within noise ({told(result, measure)}), and larger: "
            f"{size(result) / 1e6:.2f} MB"
        )
    return f"worse: {told(result, measure)}, {size(result) / 1e6:.2f} MB"


def missed(result: Result) -> str:
    """Why a model doesn't hold the limits."""
    winner = result["winner"]
    if not winner or not winner["verdict"]["violated"]:
        return str(result.get("reason") or result["status"])
    metric, value, limit, _ = winner["verdict"]["violated"][0]
    return f"its {metric} is {value:.6g} at best where the limit is {limit:.6g}"


def size(result: Result) -> float:
    """Bytes of the winner."""
    return float(result["winner"]["artifact"]["bytes"])
