"""Python functions as actions of doit tasks, with Sintra's exit codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from doit.action import BaseAction
from doit.exceptions import BaseFail, TaskError, TaskFailed
from doit.task import Task

from sintra.build.run_state import Run
from sintra.core.errors import Transient, UserError, disk_error


class FunctionAction(BaseAction):  # type: ignore[misc]
    """A function as an action, called with the task's options.

    UserError becomes exit code 2; Transient, a full disk and a return value of False exit code 1.
    """

    def __init__(self, function: Callable[..., bool | None], run: Run) -> None:
        self.function, self.run = function, run
        self.task: Task | None = None  # set by doit
        # what doit reads of every action
        self.err: str | None = None
        self.out: str | None = None
        self.result = None
        self.values: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"<{getattr(self.function, '__doc__', None) or 'call'}>"

    def execute(self, out: object = None, err: object = None) -> BaseFail | None:
        """Call the function; called by doit, which takes a failure as the return value."""
        options = dict(self.task.options or {}) if self.task else {}
        if self.task and self.task.pos_arg:
            options[self.task.pos_arg] = self.task.pos_arg_val
        try:
            good = self.function(**options)
        except UserError as error:
            return TaskError(f"sintra: {error}")
        except Transient as error:
            self.run.count("failed")
            return TaskFailed(f"sintra: {error}")
        except OSError as error:
            trouble = disk_error(error, Path(error.filename or "the cache"))
            if trouble is error:
                raise
            self.run.count("failed")
            return TaskFailed(f"sintra: {trouble}")
        return TaskFailed("", report=False) if good is False else None


def function_task(
    name: str,
    function: Callable[..., bool | None],
    run: Run,
    *,
    uptodate: Sequence[bool | Callable[[], bool]] = (False,),
    doc: str,
    task_dep: Sequence[str] = (),
    params: Sequence[dict[str, object]] = (),
    pos_arg: str | None = None,
) -> Task:
    """Return a task that calls a function, always unless `uptodate` says otherwise.

    Its group is the part of the name before the first colon.
    """
    return Task(
        name,
        [FunctionAction(function, run)],
        uptodate=list(uptodate),
        task_dep=list(task_dep),
        params=list(params),
        pos_arg=pos_arg,
        doc=doc,
        verbosity=2,
        subtask_of=name.split(":")[0] if ":" in name else None,
    )
