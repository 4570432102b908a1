"""Why a step is up to date or has to be built, in words, and how long such steps usually take."""

from __future__ import annotations

import functools
from typing import Any

from sintra.build.step import Step
from sintra.core.types import Failure
from sintra.store.store import Store


def failure_line(failure: Failure) -> str:
    """A failure in one line."""
    return f"{failure.kind}: {failure.message}"


def explain(step: Step, store: Store) -> str:
    """Whether a step is there, and if not, which part of its key has changed since it was last
    made.
    """
    found = step.outcome(store)
    if isinstance(found, Failure):
        return f"failed for good: {failure_line(found)}"
    if found is not None:
        return f"hit {step.key(store)}"
    action = step.action(store)
    if action is None:
        return "to be built: waits for " + ", ".join(
            s.name for s in step.inputs.values() if s.outcome(store) is None
        )
    made = [r for r in store.records() if r.get("step") == step.name]
    if any(r["key"] == step.key(store) for r in made):
        return "to be built: a file of its artifact is missing or damaged"
    if not made:
        return "to be built: never made before"
    last = max(made, key=lambda r: str(r.get("made")))
    return "to be built: " + "; ".join(changes(last["action"], action))


def changes(old: Any, new: Any, at: str = "") -> list[str]:
    """The leaves in which two actions differ: `params.tokens: 5120 -> 1024`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for k in sorted({*old, *new})
            for line in changes(old.get(k), new.get(k), f"{at}.{k}" if at else k)
        ]
    if old == new:
        return []

    def short(value: Any) -> str:
        return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)

    return [f"{at}: {short(old)} -> {short(new)}"]


@functools.cache
def usual(store: Store) -> dict[str, float]:
    """The median time of each stage's steps in this cache when the run began, seconds."""
    import statistics  # not on the no-op path

    times: dict[str, list[float]] = {}
    for record in store.records():
        if "wall_s" in record:  # not in what others planned (sintra.study.sharing)
            times.setdefault(str(record.get("stage")), []).append(record["wall_s"])
    return {stage: statistics.median(found) for stage, found in times.items()}
