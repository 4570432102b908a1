"""The doit tasks of a command line. dodo.py imports this and nothing else."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from doit.task import Task

from sintra.build.run_state import Run, current
from sintra.cli.chain import Chain, StudyGroup
from sintra.cli.command_line import SPELLINGS, CommandLine
from sintra.cli.commands.registry import all_commands, command_tasks
from sintra.cli.reporter import Reporter
from sintra.cli.study_run import StudyRun
from sintra.config import compose
from sintra.config.policy import side_by_side
from sintra.core.errors import UserError, disk_error
from sintra.core.process import end_when_unread, stop_on_signals
from sintra.integrations.listeners import feed, study_events
from sintra.study import round_files, running, sweep
from sintra.study.workspace import Workspace, open_workspace

DOIT_CONFIG: dict[str, Any] = {
    "backend": "sintra",
    "dep_file": "cache/doit.db",
    "default_tasks": ["_next"],
    "reporter": Reporter,
    "par_type": "thread",
    "verbosity": 2,
    "check_file_uptodate": "timestamp",
}


def configured(argv: list[str]) -> dict[str, Any]:
    """Return doit's settings for the arguments of a command line.

    In a sweep a failed study doesn't stop the others. Where steps run on other machines many run at
    the same time.
    """
    line = CommandLine.of(argv)
    config = dict(DOIT_CONFIG)
    if steps := side_by_side(line.overrides):
        config["num_process"] = steps
    if line.group_command:
        config["continue"] = True
    return config


def tasks(root: Path, argv: list[str]) -> Iterator[Task]:
    """Return every task of a command line.

    A mistake of the user's ends the process: one line, exit code 2.
    """
    end_when_unread()
    pause_garbage_collection()
    line = CommandLine.of(argv)
    workspaces = open_or_exit(root, line, current)
    single = workspaces[0] if workspaces and not line.group_command else None
    yield from command_tasks(root, line.overrides, single, current)
    yield from listed_tasks(line)
    if not workspaces:
        return
    stop_on_signals()
    if line.runs_optimize or line.group_command:
        for workspace in workspaces:
            round_files.reopen_study(workspace)
            if not round_files.study_ended(workspace):
                running.note_run(workspace)
    yield from study_tasks(root, line, workspaces, current)
    for word in SPELLINGS.keys() & set(argv):  # a task only where it is typed: no list has it
        yield Task(word, None, task_dep=[SPELLINGS[word]], doc=f"The same as {SPELLINGS[word]}")


def listed_tasks(line: CommandLine) -> Iterator[Task]:
    """Return tasks without actions for the commands of several studies, so that lists have them."""
    if line.words[:1] in (["list"], ["tabcompletion"]):
        for command in all_commands():
            if command.opens == "studies":
                yield Task(command.name, None, doc=command.summary)


def pause_garbage_collection() -> None:
    """Turn Python's cycle collector off until the first step is built.

    A run with nothing to do makes some ten thousand small objects and ends; looking for cycles
    among them took a tenth of its time.
    """
    gc.disable()


def open_or_exit(root: Path, line: CommandLine, run: Run) -> list[Workspace]:
    """Open the studies of a command line, or print the help that it asks for and exit.

    Exits with code 2 for a mistake of the user's, 1 for a disk that is full or read-only.
    """
    try:
        if line.words and line.asks_help:
            from sintra.cli import manual  # not on the no-op path

            manual.print_help(root, line.words[0])
            raise SystemExit(0)
        return open_studies(root, line, run)
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (trouble := disk_error(error, Path(error.filename or "the cache"))) is error:
            raise
        print(f"sintra: {trouble}", file=sys.stderr)
        raise SystemExit(1) from None


def open_studies(root: Path, line: CommandLine, run: Run) -> list[Workspace]:
    """Open the studies that the options describe; none where no command needs one.

    Raises UserError.
    """
    if line.group_command:
        workspaces = sweep.open_studies(root, line.overrides)
    else:
        refuse_several(root, line.overrides)
        workspaces = [open_workspace(root, line.overrides)] if line.opens_study else []
    for workspace in workspaces[:1]:
        run.console.configure(workspace.config.progress)
    if line.group_command or line.runs_optimize:
        for workspace in workspaces:
            feed.check_listeners(asdict(workspace.config))
    return workspaces


def refuse_several(root: Path, overrides: list[str]) -> None:
    """Raise UserError for an option that names several values of a group outside of a sweep."""
    for override in overrides:
        group = override.partition("=")[0]
        if group in compose.GROUPS and sweep.has_several_values(root, override):
            raise UserError(f"{override} names several: use `doit sweep` or `doit compare`")


def study_tasks(
    root: Path, line: CommandLine, workspaces: list[Workspace], run: Run
) -> Iterator[Task]:
    """Return the tasks of the studies, and note what is to be done when all have been tried."""
    events = feed.Feed()
    if line.group_command:
        group = StudyGroup(root, line.overrides, workspaces, line.group_command, run, events)
        run.at_end.append(group.conclude)
        run.at_end.append(lambda: close_events(group.studies, run, events))
        yield from group.tasks()
        return
    study = StudyRun(workspaces[0], run, events)
    if line.runs_optimize:
        run.at_end.append(study.conclude_overdue)
        run.at_end.append(lambda: close_events([study], run, events))
    yield from Chain(study).tasks()


def close_events(studies: list[StudyRun], run: Run, events: feed.Feed) -> None:
    """Tell the listeners that this process ends, and print what they complain about."""
    for text in study_events.close_feed([study.events for study in studies], events, run.failures):
        run.say(text)
