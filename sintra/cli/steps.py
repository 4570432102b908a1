"""Steps as doit tasks: freshness asks the store, the action starts a worker."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doit.action import BaseAction
from doit.exceptions import BaseFail, TaskError, TaskFailed
from doit.task import Task

from sintra.build.console import CONSOLE, say
from sintra.build.explain import explain, failure_line, usual
from sintra.build.step import Step
from sintra.config.policy import Terms
from sintra.core.errors import Transient, UserError, disk_error
from sintra.core.types import Failure
from sintra.store.store import Store

COUNTS = {"built": 0, "cached": 0, "failed": 0}

# A no-op makes some ten thousand small objects and ends; looking for cycles among them took a tenth
# of its time. The first step that is really built turns the collector on again.
gc.disable()


def count(what: str) -> None:
    """One more step built, cached or failed in this run."""
    with CONSOLE.lock:
        COUNTS[what] = COUNTS.get(what, 0) + 1


class Call(BaseAction):  # type: ignore[misc]
    """A plain function as an action. UserError becomes exit code 2, Transient and False exit code
    1.
    """

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
        except OSError as error:
            trouble = disk_error(error, Path(error.filename or "the cache"))
            if trouble is error:
                raise
            count("failed")
            return TaskFailed(f"sintra: {trouble}")
        return TaskFailed("", report=False) if good is False else None


class Fresh:
    """An `uptodate` callable: whether the store has the step's outcome. Its repr says why not."""

    # doit looks at the signature of each; without this, inspect works it out anew for every step
    # (0.1 ms).
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


def excuse(step: Step, store: Store, error: Transient) -> None:
    """A fault of an optional step: its variant's failure for the rest of this run, tried again by
    the next one.
    """
    key = step.key(store)
    if key is None:
        raise error
    store.excuse(key, Failure("fault", str(error).removeprefix(f"{step.name}: ")))


def step_task(step: Step, store: Store, terms: Terms | None, why: str | None = None) -> Task:
    """The doit task of a step."""

    def work() -> None:
        from sintra.build.run import run_step  # not on the no-op path
        from sintra.study.sharing import made

        gc.enable()
        start, how = time.monotonic(), "built"
        try:
            with CONSOLE.step(step.name, usual(store).get(step.stage)):
                how = made(step, store, lambda: run_step(step, store, terms, say))
        except Transient as error:
            if not step.plugin.optional:
                raise
            excuse(step, store, error)
        found = step.outcome(store)
        if isinstance(found, Failure):
            count("failed")
            say(
                f"failed  {step.name}: {failure_line(found)}",
                "failed",
                step=step.name,
                kind=found.kind,
            )
        else:
            count(how)
            took = time.monotonic() - start
            say(f"{how:<7} {step.name}  {took:.1f} s", how, step=step.name, seconds=round(took, 3))

    def clean(dryrun: bool) -> None:
        key = step.key(store)
        if key and store.record(key):
            print(f"forget {step.name}")
            if not dryrun:
                step.forget(store)

    call = Call(work)
    task = Task(
        step.name,
        [call],
        task_dep=[s.name for s in step.inputs.values()],
        uptodate=[Fresh(step, store)],
        clean=[clean],
        doc=f"{step.stage} {step.label}",
        verbosity=2,
        subtask_of=step.stage,
        meta={"step": step, "proposed": why, "params": step.params, "store": store},
    )
    call.task = task
    return task
