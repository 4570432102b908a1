"""Explain a step: whether it is made, or which part of its key has changed."""

from __future__ import annotations

import functools
from typing import Any

from sintra.build.step import Step
from sintra.core.artifact import Failure
from sintra.core.text import printable_line
from sintra.store.store import Store

LONGEST_VALUE = 200  # characters of a value that is shown


def failure_line(failure: Failure) -> str:
    """Return a failure in one line."""
    return f"{failure.kind}: {failure.message}"


def explain(step: Step, store: Store) -> str:
    """Return whether a step is made, and if not, what of its key has changed since it last was."""
    outcome = step.outcome(store)
    if isinstance(outcome, Failure):
        return f"failed for good: {failure_line(outcome)}"
    if outcome is not None:
        return f"hit {step.key(store)}"
    action = step.action(store)
    if action is None:
        return "to be built: waits for " + ", ".join(
            s.name for s in step.inputs.values() if s.outcome(store) is None
        )
    records = [r for r in store.read_entries() if r.get("step") == step.name]
    if any(r["key"] == step.key(store) for r in records):
        return "to be built: a file of its artifact is missing or damaged"
    if not records:
        return "to be built: never made before"
    last = max(records, key=lambda r: str(r.get("made")))
    return "to be built: " + "; ".join(changes(last["action"], action))


def changes(old: Any, new: Any, at: str = "") -> list[str]:
    """Return the leaves in which two actions differ, as `params.tokens: 5120 -> 1024`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for k in sorted({*old, *new})
            for line in changes(old.get(k), new.get(k), f"{at}.{k}" if at else k)
        ]
    if old == new:
        return []

    def short(value: Any) -> str:
        if isinstance(value, str) and len(value) == 64:
            value = value[:12]
        return printable_line(str(value), LONGEST_VALUE)

    return [f"{at}: {short(old)} -> {short(new)}"]


@functools.cache
def typical_seconds(store: Store) -> dict[str, float]:
    """Return stage -> median time of its steps in this cache when the run began, seconds."""
    import statistics  # not on the no-op path

    times: dict[str, list[float]] = {}
    for record in store.read_entries():
        if "wall_s" in record:  # not in what others planned (sintra.study.sharing)
            times.setdefault(str(record.get("stage")), []).append(record["wall_s"])
    return {stage: statistics.median(seconds) for stage, seconds in times.items()}
