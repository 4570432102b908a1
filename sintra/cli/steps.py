"""Steps as doit tasks: the store says what is up to date, the action builds in a worker."""

from __future__ import annotations

import gc
import inspect
import time
from typing import TYPE_CHECKING

from doit.task import Task

from sintra.build.explain import explain, failure_line, typical_seconds
from sintra.build.run_state import Run
from sintra.build.step import Step
from sintra.cli.actions import FunctionAction
from sintra.core.artifact import Failure
from sintra.core.errors import Transient
from sintra.store.store import Store

if TYPE_CHECKING:  # not on the no-op path; the extra `remote` may be missing
    from sintra.config.policy import RunPolicy
    from sintra.store.remote.shared import SharedStore


class StoreUpToDate:
    """An `uptodate` callable: whether the store has the step's outcome. Its repr says why not."""

    # doit looks at the signature of each; without this, inspect works it out anew for every step
    # (0.1 ms).
    __signature__ = inspect.Signature()

    def __init__(self, step: Step, store: Store, run: Run) -> None:
        self.step, self.store, self.run = step, store, run

    def __call__(self) -> bool:
        """Look in the store; called by doit when everything above the step has run."""
        has_outcome = self.step.outcome(self.store) is not None
        if has_outcome:
            self.run.count("cached")
        return has_outcome

    def __repr__(self) -> str:
        return f"<store: {explain(self.step, self.store)}>"


def step_task(
    step: Step,
    store: Store,
    policy: RunPolicy | None,
    run: Run,
    reason: str | None = None,
    shared: SharedStore | None = None,
) -> Task:
    """Return the doit task of a step.

    reason: who proposed its recipe and why; shared: where others may have its outcome.
    """

    def clean(dryrun: bool) -> None:
        forget_step(step, store, dryrun)

    return Task(
        step.name,
        [FunctionAction(lambda: build_step(step, store, policy, run, shared), run)],
        task_dep=[above.name for above in step.inputs.values()],
        uptodate=[StoreUpToDate(step, store, run)],
        clean=[clean],
        doc=f"{step.stage} {step.label}",
        verbosity=2,
        subtask_of=step.stage,
        meta={"step": step, "proposed": reason, "params": step.params, "store": store},
    )


def build_step(
    step: Step, store: Store, policy: RunPolicy | None, run: Run, shared: SharedStore | None
) -> None:
    """Build a step, or take it from the shared store, and print what came of it."""
    from sintra.build.run import run_step  # not on the no-op path
    from sintra.study.sharing import make_step  # likewise

    gc.enable()  # see `sintra.cli.tasks.pause_garbage_collection`
    start, how = time.monotonic(), "built"
    try:
        with run.console.show_step(step.name, typical_seconds(store).get(step.stage)):
            how = make_step(
                step, store, shared, lambda: run_step(step, store, policy, run.say, run)
            )
    except Transient as error:
        if not step.plugin.optional:
            raise
        excuse_fault(step, store, error)
    report_outcome(step, store, how, time.monotonic() - start, run)


def excuse_fault(step: Step, store: Store, error: Transient) -> None:
    """Record a fault of an optional step as its variant's failure for the rest of this run.

    The next run tries the step again. Raises the fault where the step has no key.
    """
    key = step.key(store)
    if key is None:
        raise error
    store.fail_this_run(key, Failure("fault", str(error).removeprefix(f"{step.name}: ")))


def report_outcome(step: Step, store: Store, how: str, seconds: float, run: Run) -> None:
    """Count a step that has run and print a line of it. `how`: "built" or "pulled"."""
    outcome = step.outcome(store)
    if isinstance(outcome, Failure):
        run.count("failed")
        line = f"failed  {step.name}: {failure_line(outcome)}"
        run.say(line, "failed", step=step.name, kind=outcome.kind)
    else:
        run.count(how)
        line = run.console.step_line(how, step.name, seconds)
        run.say(line, how, step=step.name, seconds=round(seconds, 3))


def forget_step(step: Step, store: Store, dry_run: bool) -> None:
    """Drop a step's entry in the store, as `doit clean` does; a dry run only prints it."""
    key = step.key(store)
    if key and store.read_entry(key):
        print(f"forget {step.name}")
        if not dry_run:
            step.forget(store)
