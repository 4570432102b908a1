"""Steps as doit tasks: freshness asks the store, the action starts a worker."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from doit.action import BaseAction
from doit.exceptions import BaseFail, TaskError, TaskFailed
from doit.task import Task

from sintra.errors import Transient, UserError
from sintra.graph import Step
from sintra.store import Store
from sintra.types import Failure

COUNTS = {"built": 0, "cached": 0, "failed": 0}
_lock = threading.Lock()

# A no-op makes some ten thousand small objects and ends; looking for cycles among them took a tenth of its time. The first
# step that is really built turns the collector on again.
gc.disable()


def say(text: str) -> None:
    """A line of progress on stderr."""
    with _lock:
        print(text, file=sys.stderr, flush=True)


def count(what: str) -> None:
    """One more step built, cached or failed in this run."""
    with _lock:
        COUNTS[what] += 1


class Call(BaseAction):  # type: ignore[misc]
    """A plain function as an action. UserError becomes exit code 2, Transient and False exit code 1."""

    def __init__(self, function: Callable[..., bool | None], task: Task | None = None) -> None:
        self.function = function
        self.task = task
        self.err: str | None = None
        self.out: str | None = None
        self.result = None
        self.values: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{getattr(self.function, '__doc__', None) or 'call'}>"

    def execute(self, out: Any = None, err: Any = None) -> BaseFail | None:
        """Called by doit."""
        options = dict(self.task.options or {}) if self.task else {}
        if self.task and self.task.pos_arg:
            options[self.task.pos_arg] = self.task.pos_arg_val
        try:
            good = self.function(**options)
        except UserError as error:
            return TaskError(f"sintra: {error}")
        except Transient as error:
            count("failed")
            return TaskFailed(f"sintra: {error}")
        return TaskFailed("", report=False) if good is False else None


class Fresh:
    """An `uptodate` callable: whether the store has the step's outcome. Its repr says why not."""

    # doit looks at the signature of each; without this, inspect works it out anew for every step (0.1 ms).
    __signature__ = inspect.Signature()

    def __init__(self, step: Step, store: Store) -> None:
        self.step, self.store = step, store

    def __call__(self) -> bool:
        """Called by doit when everything above the step has run."""
        found = self.step.outcome(self.store)
        if found is not None:
            count("cached")
        return found is not None

    def __repr__(self) -> str:
        return f"<store: {explain(self.step, self.store)}>"


def failure_line(failure: Failure) -> str:
    """A failure in one line."""
    return f"{failure.kind}: {failure.message}"


def explain(step: Step, store: Store) -> str:
    """Whether a step is there, and if not, which part of its key has changed since it was last made."""
    found = step.outcome(store)
    if isinstance(found, Failure):
        return f"failed for good: {failure_line(found)}"
    if found is not None:
        return f"hit {step.key(store)}"
    action = step.action(store)
    if action is None:
        return "to be built: waits for " + ", ".join(s.name for s in step.inputs.values() if s.outcome(store) is None)
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
        return [line for k in sorted({*old, *new}) for line in changes(old.get(k), new.get(k), f"{at}.{k}" if at else k)]
    if old == new:
        return []

    def short(value: Any) -> str:
        return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)

    return [f"{at}: {short(old)} -> {short(new)}"]


def excuse(step: Step, store: Store, error: Transient) -> None:
    """A fault of an optional step: its variant's failure for the rest of this run, tried again by the next one."""
    key = step.key(store)
    if key is None:
        raise error
    store.excuse(key, Failure("fault", str(error).removeprefix(f"{step.name}: ")))


def step_task(step: Step, store: Store, timeout_s: float | None, why: str | None = None) -> Task:
    """The doit task of a step."""

    def work() -> None:
        from sintra.run import run_step  # not on the no-op path

        gc.enable()
        start = time.monotonic()
        try:
            run_step(step, store, timeout_s, say)
        except Transient as error:
            if not step.plugin.optional:
                raise
            excuse(step, store, error)
        found = step.outcome(store)
        if isinstance(found, Failure):
            count("failed")
            say(f"failed  {step.name}: {failure_line(found)}")
        else:
            count("built")
            say(f"built   {step.name}  {time.monotonic() - start:.1f} s")

    def clean(dryrun: bool) -> None:
        key = step.key(store)
        if key and store.record(key):
            print(f"forget {step.name}")
            if not dryrun:
                step.forget(store)

    call = Call(work)
    task = Task(step.name, [call], task_dep=[s.name for s in step.inputs.values()], uptodate=[Fresh(step, store)],
                clean=[clean], doc=f"{step.stage} {step.label}", verbosity=2, subtask_of=step.stage,
                meta={"step": step, "proposed": why, "params": step.params, "store": store})  # fmt: skip
    call.task = task
    return task
