"""doit's database, `forget` and `help`, as plugins of doit.

The database may be lost at any time: the store decides what is up to date. A damaged file is begun
anew; one that can't be written (read-only, full, locked) is done without.
"""

from __future__ import annotations

import contextlib
import sqlite3
import textwrap
from pathlib import Path
from typing import Any

from doit.cmd_forget import Forget as DoitForget
from doit.cmd_help import Help as DoitHelp
from doit.dependency import DatabaseException, SqliteDB

from sintra.core.process import end_when_unread

DATABASE_ERRORS = (sqlite3.Error, DatabaseException, ValueError, OSError)


class TaskDB(SqliteDB):  # type: ignore[misc]
    """doit's sqlite3 backend, without its ways to fail."""

    desc = "sqlite3, where damage costs nothing"

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None) -> None:
        try:
            super().__init__(name, codec, module_name=module_name)
        except DATABASE_ERRORS:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            try:
                super().__init__(name, codec, module_name=module_name)
            except DATABASE_ERRORS:
                super().__init__(":memory:", codec, module_name=module_name)

    def _get_task_data(self, task_id: str) -> dict[str, Any]:
        try:
            data = super()._get_task_data(task_id)
        except DATABASE_ERRORS:
            return {}
        return data if isinstance(data, dict) else {}

    def in_(self, task_id: str) -> bool:
        """Return whether the database has anything of a task."""
        try:
            return bool(super().in_(task_id))
        except DATABASE_ERRORS:
            return False

    def dump(self) -> None:
        """Save and close the database, where that can be done."""
        try:
            super().dump()
        except DATABASE_ERRORS:
            self._conn.close()

    def remove(self, task_id: str) -> None:
        """Remove what the database has of a task."""
        with contextlib.suppress(*DATABASE_ERRORS):
            super().remove(task_id)

    def remove_all(self) -> None:
        """Remove what the database has of every task."""
        with contextlib.suppress(*DATABASE_ERRORS):
            super().remove_all()


class Forget(DoitForget):  # type: ignore[misc]
    """doit's own command, which removes the entries of the steps in the store too."""

    name = "forget"
    doc_purpose = "forget steps, so that the next run makes them again"

    def _execute(self, forget_sub: Any, forget_disable_default: Any, forget_all: Any) -> None:
        super()._execute(forget_sub, forget_disable_default, forget_all)
        chosen = set(self.sel_tasks or ())
        for task in self.task_list:
            is_chosen = forget_all or task.name in chosen or task.subtask_of in chosen
            if is_chosen and task.meta and "step" in task.meta:
                step, store = task.meta["step"], task.meta["store"]
                if step.forget(store):
                    self.outstream.write(f"forgot {step.name}\n")


class Help(DoitHelp):  # type: ignore[misc]
    """doit's own command, which says in a project of Sintra what Sintra's commands do."""

    name = "help"

    def print_usage(self, cmds: dict[str, Any]) -> None:
        """Print the commands: Sintra's in its projects, doit's own elsewhere."""
        if is_project(Path.cwd()):
            from sintra.cli import manual  # not on the no-op path

            end_when_unread()
            print(manual.overview(Path.cwd()))
            names = ", ".join(sorted(cmds))
            print(textwrap.fill(f"Commands of doit: {names}", manual.WIDTH))
        else:
            DOIT_USAGE(self, cmds)

    def execute(self, params: Any, args: list[str]) -> int:
        """Print the help of what is named, or of everything."""
        if len(args) == 1 and is_project(Path.cwd()):
            from sintra.cli import manual  # not on the no-op path

            if manual.find_command(args[0]):
                manual.print_help(Path.cwd(), args[0])
                return 0
        return int(DOIT_EXECUTE(self, params, args))


def is_project(root: Path) -> bool:
    """Return whether a folder's dodo.py is Sintra's."""
    try:
        return "sintra.cli.tasks" in (root / "dodo.py").read_text(errors="replace")
    except OSError:
        return False


# `doit --help` makes doit's own class, whatever plugins there are; it loads them all before it
# prints, so from here on its methods are ours.
DOIT_USAGE, DOIT_EXECUTE = DoitHelp.print_usage, DoitHelp.execute
DoitHelp.print_usage, DoitHelp.execute = Help.print_usage, Help.execute
