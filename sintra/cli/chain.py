"""The rounds of studies as doit tasks.

A study's rounds are native delayed tasks: recorded rounds are ordinary tasks; the frontier
`round:NN` is created after `propose:NN` has written its file; each round waits for the next one, so
that `optimize` waits for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from doit.task import DelayedLoader, Task

from sintra.build.run_state import Run
from sintra.cli.actions import function_task
from sintra.cli.commands.registry import command_params, command_summary
from sintra.cli.steps import step_task
from sintra.cli.study_run import StudyRun
from sintra.integrations.listeners.feed import Feed
from sintra.study import round_files, rounds, sweep
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace


class Chain:
    """The rounds of one study as tasks."""

    def __init__(
        self, study: StudyRun, label: str = "", step_names: set[str] | None = None
    ) -> None:
        self.study, self.run = study, study.run
        self.label = label
        """In the names of tasks that are the study's own, where other studies run beside it."""
        self.step_names = set() if step_names is None else step_names
        """Steps that are tasks already; studies side by side share them."""

    @property
    def workspace(self) -> Workspace:
        """Return the study's workspace, as it is once its sources are resolved."""
        return self.study.workspace

    def tasks(self) -> Iterator[Task]:
        """Return resolve, what is recorded, the frontier, and the end behind all of it."""
        study, resolve = self.study, self.task_name("_resolve")
        yield function_task(
            resolve,
            study.resolve_sources,
            self.run,
            uptodate=[study.is_resolved],
            doc="Pin a hub model to its commit",
        )
        recorded = study.recorded_rounds()
        yield from self.round_tasks(recorded[0]) if recorded else self.frontier(1, [resolve])
        yield function_task(
            self.task_name("cell") if self.label else "optimize",
            study.conclude_study,
            self.run,
            doc=command_summary("optimize"),
            params=[] if self.label else command_params("optimize"),
            task_dep=[self.task_name("round", 1)],
        )

    def task_name(self, kind: str, number: int | None = None) -> str:
        """Return the name of a task of this study's own: kind, label and round."""
        parts = [kind, self.label, "" if number is None else f"{number:02}"]
        return ":".join(part for part in parts if part)

    def round_tasks(self, recorded: Round) -> Iterator[Task]:
        """Return the tasks of a recorded round, and of what follows unless it was the last."""
        number, graph = recorded.number, self.workspace.graph()
        reasons = rounds.step_reasons(graph, recorded)
        names = []
        for step in rounds.round_steps(graph, recorded):
            names.append(step.name)
            if step.name not in self.step_names:
                self.step_names.add(step.name)
                store, policy = self.workspace.store, self.workspace.policy
                yield step_task(
                    step,
                    store,
                    policy,
                    self.run,
                    reasons.get(step.name),
                    self.workspace.shared,
                )
        is_last = recorded.is_last
        waits_for = names if is_last else [*names, self.task_name("round", number + 1)]
        yield self.round_group(number, waits_for)
        if not is_last:
            later = round_files.read_rounds(self.workspace)[number:]
            yield from self.round_tasks(later[0]) if later else self.frontier(number + 1, names)

    def round_group(
        self, number: int, task_dep: list[str], loader: DelayedLoader | None = None
    ) -> Task:
        """Return the task that stands for a round."""
        return Task(
            self.task_name("round", number),
            None,
            task_dep=task_dep,
            loader=loader,
            has_subtask=loader is None,
            doc=f"Round {number}",
            subtask_of="round",
        )

    def frontier(self, number: int, after: list[str]) -> Iterator[Task]:
        """Return the planning of the next round, and the round that is made of it."""
        plan = self.task_name("propose", number)
        yield function_task(
            plan,
            lambda: self.study.plan_round(number),
            self.run,
            uptodate=[lambda: self.study.is_planned(number)],
            doc=f"Plan round {number}",
            task_dep=after,
        )
        loader = DelayedLoader(lambda: self.planned_tasks(number), executed=plan)
        yield self.round_group(number, [plan], loader)

    def planned_tasks(self, number: int) -> Iterator[Task]:
        """Return the tasks of a round that has just been planned; called by doit.

        With --continue doit calls it even where planning has failed: then the round is empty.
        """
        recorded = round_files.read_rounds(self.workspace)
        if len(recorded) >= number:
            yield from self.round_tasks(recorded[number - 1])
        else:
            yield Task(self.task_name("round", number), None, has_subtask=True)


class StudyGroup:
    """The studies of a sweep or a comparison, side by side, with one table at the end."""

    def __init__(
        self,
        root: Path,
        overrides: list[str],
        workspaces: list[Workspace],
        command: str,
        run: Run,
        feed: Feed,
    ) -> None:
        self.root, self.overrides, self.command, self.run = root, overrides, command, run
        self.workspaces = workspaces
        self.studies = [StudyRun(w, run, feed, self.note_end) for w in workspaces]
        self.ended: set[str] = set()  # names of studies that have a result
        self.met: set[str] = set()  # of them, those whose goal is met

    def tasks(self) -> Iterator[Task]:
        """Return the tasks of every study; no study waits for the end of another."""
        step_names: set[str] = set()
        cells = []
        for study in self.studies:
            chain = Chain(study, study.workspace.study.id, step_names)
            yield from chain.tasks()
            cells.append(chain.task_name("cell"))
        doc = command_summary(self.command)
        yield function_task(self.command, self.all_met, self.run, doc=doc, task_dep=cells)

    def all_met(self) -> bool:
        """Return whether every study that has ended met its goal."""
        return self.met == self.ended

    def note_end(self, study: str, status: str) -> None:
        """Note that a study has ended, and print it."""
        self.ended.add(study)
        if status == "pass":
            self.met.add(study)
        self.run.say(f"ended   {study}: {status}")

    def conclude(self) -> None:
        """Print the table, also where some studies failed."""
        from sintra.results import comparison  # not on the no-op path

        for study in self.studies:
            study.conclude_overdue()
        rows = sweep.cell_results(self.root, self.workspaces, self.ended)
        comparison.write_comparison(self.root, self.overrides, rows, self.command)
