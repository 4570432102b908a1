"""TODO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.task import DelayedLoader, Task

from sintra.build.console import CONSOLE, FAILURES, say, span
from sintra.build.graph import Graph
from sintra.cli.briefing import ahead, intro, summary
from sintra.cli.commands import registry
from sintra.cli.reporter import AT_END
from sintra.cli.steps import COUNTS, Call, step_task
from sintra.config import study
from sintra.config.tasks import check_tasks
from sintra.core.canonical import canonical
from sintra.hardware.boards import identity
from sintra.integrations.listeners import study_events
from sintra.integrations.listeners.feed import FEED
from sintra.results import outputs, result, table
from sintra.study import candidates, pinning, round_files, rounds, sweep
from sintra.study.workspace import Workspace

START = time.monotonic()


def close_feed(studies: list[study_events.StudyEvents]) -> None:
    """End what this process publishes for listeners, and say what they complain of."""
    for line in study_events.close_feed(studies, FEED, FAILURES):
        say(line)


class Many:
    """The studies of a sweep or a comparison: their chains side by side, with one table at the end."""

    def __init__(
        self, root: Path, raw: list[str], workspaces: list[Workspace], command: str
    ) -> None:
        self.root, self.raw, self.workspaces, self.command = root, raw, workspaces, command
        self.ended: set[str] = set()
        self.met: set[str] = set()
        self.chains: list[Chain] = []

    def tasks(self) -> Iterator[Task]:
        """Every chain; one study's end doesn't wait for another's, and neither does the table."""
        seen: set[str] = set()
        self.chains = [
            Chain(workspace, workspace.study.id, seen, self.done) for workspace in self.workspaces
        ]
        for chain in self.chains:
            yield from chain.tasks()
        cells = [f"cell:{p.study.id}" for p in self.workspaces]
        yield _task(self.command, self.every_met, [False], registry.DOCS[self.command], cells)
        AT_END.extend([self.close, lambda: close_feed([c.events for c in self.chains])])

    def every_met(self) -> bool:
        """Whether every study met its goal."""
        return self.met == self.ended

    def done(self, made: dict[str, Any]) -> None:
        """A study has ended."""
        self.ended.add(made["study"])
        if made["status"] == "met":
            self.met.add(made["study"])
        say(f"ended   {made['study']}: {made['status']}")

    def close(self) -> None:
        """The table, also where some studies failed."""
        from sintra.results import comparison  # not on the no-op path

        for chain in self.chains:
            chain.cut()
        rows = sweep.results(self.root, self.workspaces, self.ended)
        comparison.tell(self.root, self.raw, rows, self.command)


class Chain:
    """The rounds of one study as tasks. Beside others: mark, the study's name, is in the tasks that
    are its own; seen are the steps that are tasks already; done is called with the result in the
    place of printing it.
    """

    def __init__(
        self,
        workspace: Workspace,
        mark: str = "",
        seen: set[str] | None = None,
        done: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.workspace, self.mark, self.done = workspace, mark, done
        self.told = self.concluded = False
        self.seen = set() if seen is None else seen
        self.events = study_events.StudyEvents(workspace, FEED)

    def tasks(self) -> Iterator[Task]:
        """resolve, what is recorded, the frontier, and `optimize` behind all of it."""
        first, last = self.named("resolve"), self.named("cell") if self.mark else "optimize"
        yield _task(first, self.resolve, [self._resolved], "Pin a hub model to its commit")
        known = round_files.recorded(self.workspace) if self.workspace.ready else []
        if self.workspace.config.refresh:
            known = []
        yield from self.round(known[0]) if known else self.frontier(1, [first])
        yield _task(
            last, self.conclude, [False], registry.DOCS["optimize"], [self.named("round", 1)]
        )

    def named(self, kind: str, number: int | None = None) -> str:
        """A task of this study's own."""
        return ":".join(
            [
                kind,
                *([self.mark] if self.mark else []),
                *([f"{number:02}"] if number is not None else []),
            ]
        )

    def round(self, given: round_files.Round) -> Iterator[Task]:
        """A recorded round: its steps, its group, and, unless it was the last, what comes after it."""
        number, store = given["round"], self.workspace.store
        graph = self.workspace.graph()
        names = []
        reasons = rounds.reasons(graph, given)
        for step in rounds.steps_of(graph, given):
            names.append(step.name)
            if step.name not in self.seen:
                self.seen.add(step.name)
                yield step_task(
                    step,
                    store,
                    self.workspace.policy,
                    reasons.get(step.name),
                    self.workspace.shared,
                )
        last = given["stop"] is not None
        group = names if last else [*names, self.named("round", number + 1)]
        yield Task(
            self.named("round", number),
            None,
            task_dep=group,
            has_subtask=True,
            doc=f"Round {number}",
            subtask_of="round",
        )
        if not last:
            later = round_files.recorded(self.workspace)[number:]
            yield from self.round(later[0]) if later else self.frontier(number + 1, names)

    def frontier(self, number: int, after: list[str]) -> Iterator[Task]:
        """The planner's next word, and the round that is made of it."""
        name = self.named("propose", number)
        anew = number == 1 and self.workspace.config.refresh
        path = round_files.path_of(self.workspace, number)
        yield _task(
            name,
            lambda: self.propose(number),
            [False if anew else lambda: round_files.read(path) is not None],
            f"Plan round {number}",
            after,
        )
        yield Task(
            self.named("round", number),
            None,
            loader=DelayedLoader(lambda: self.created(number), executed=name),
            task_dep=[name],
            doc=f"Round {number}",
            subtask_of="round",
        )

    def created(self, number: int) -> Iterator[Task]:
        """Called by doit after the planner; guarded, since with --continue it is called even when
        that failed.
        """
        known = round_files.recorded(self.workspace)
        if len(known) >= number:
            yield from self.round(known[number - 1])
        else:
            yield Task(self.named("round", number), None, has_subtask=True)

    def _resolved(self) -> bool:
        return not self.workspace.config.refresh and self.workspace.ready

    def resolve(self) -> None:
        """Pin the model, and ask the board what it is."""
        store, model, device = (
            self.workspace.store,
            self.workspace.config.model,
            self.workspace.config.device,
        )
        anew = self.workspace.config.refresh
        self.tell()
        if not identity.is_resolved(store, device) or (anew and device.name != study.LOCAL):
            say(f"board   {identity.resolve_board(store, device, say)}")
        if self.workspace.pinned() is None or (
            anew and pinning.pinned_hub(store, model.source, model.revision)
        ):
            found = pinning.resolve_hub(self.workspace.store, model.source, model.revision)
            say(f"pinned  {found.locator} at {found.digest}")

    def tell(self) -> None:
        """What is about to happen, once, before anything takes long."""
        if not self.told:
            self.told = True
            say(
                intro(self.workspace)
                if self.done is None
                else f"study   {self.workspace.study.id}",
                "study",
                study=self.workspace.study.id,
            )

    def propose(self, number: int) -> None:
        """Write the round's file."""
        if number == 1:
            check_tasks(self.workspace.tasks.values())
            for path in self.workspace.folder.glob("round-*.json"):
                path.unlink()
            self.tell()
        known, graph = round_files.recorded(self.workspace)[: number - 1], self.workspace.graph()
        rounds.write_keys(self.workspace, graph, known)
        self.events.publish_rounds(graph, known)
        given = self.planned(graph, known)
        round_files.write_round(self.workspace, given)
        count, seconds = ahead(graph, self.workspace.store, given)
        CONSOLE.ahead += count
        of = f" of {self.mark}" if self.done is not None else ""
        about = (
            f" [{count} steps{f', about {span(seconds)}' if seconds >= 1 else ''}]" if count else ""
        )
        say(
            f"round {number}{of}: {summary(given)}{about}",
            "round",
            round=number,
            steps=count,
            seconds=round(seconds, 1),
        )

    def planned(self, graph: Graph, known: list[round_files.Round]) -> round_files.Round:
        """The next round: the planner's, or what others have planned from the same."""
        store = self.workspace.store
        if self.workspace.shared is None or self.workspace.config.refresh:
            return rounds.next_round(graph, store, known, say)
        from sintra.study import sharing

        pulled = sharing.pull_round(self.workspace, graph, known)
        return pulled or sharing.share_round(
            self.workspace, graph, known, rounds.next_round(graph, store, known, say)
        )

    def report(self) -> None:
        """The page that people look at, unless it is there: a result that has changed takes it
        away.
        """
        if not (self.workspace.outputs / "report.html").is_file():
            from sintra.results.pages import report_data  # not on the no-op path

            report_data.write(self.workspace.root, self.workspace.study.id, self.workspace)

    def cut(self) -> None:
        """Where the run's time was up: judge and deliver what is known so far. The recorded rounds
        stay as they are.
        """
        known, terms = round_files.recorded(self.workspace), self.workspace.policy
        if self.concluded or not terms.over or not known:
            return
        found = candidates.candidates(self.workspace.graph(), self.workspace.store, known)
        if any(c.artifact for c in found):
            self.conclude(
                [
                    *known[:-1],
                    known[-1]
                    | {"stop": f"the run's time was up (limits.study_minutes={terms.minutes:g})"},
                ]
            )

    def conclude(self, known: list[round_files.Round] | None = None) -> bool:
        """Judge, deliver, tell."""
        self.concluded = True
        known = known or round_files.recorded(self.workspace)
        graph = self.workspace.graph()
        found = candidates.candidates(graph, self.workspace.store, known)
        rounds.write_keys(self.workspace, graph, known)
        made = result.build(self.workspace, known, found, dict(COUNTS), time.monotonic() - START)
        wrong = outputs.deliver(self.workspace, made, found, known, graph)
        self.report()
        if wrong:
            say(f"invalid {made['study']}: {wrong}; outputs/latest doesn't point to it")
        self.events.publish_result(graph, known, made)
        if self.done is not None:
            self.done(made | ({"status": "invalid"} if wrong else {}))
            # that a goal is missed is the sweep's to say: what waits for a failed task is never run
            return True
        good = made["status"] == "met" and not wrong
        if CONSOLE.mode == "json":
            print(canonical(made))
            return good
        if CONSOLE.mode != "quiet":
            print(table.table(made, found, self.workspace.study.goal))
        print(table.advice(made))
        if CONSOLE.mode == "quiet":
            return good
        print(f"the whole of it, as a page: outputs/{made['study']}/report.html")
        if made["status"] != "met" and (
            line := table.adviser_at_hand(self.workspace.study.planner.name)
        ):
            print(line)
        steps, llm = made["steps"], made["llm"]
        if llm["calls"]:
            print(
                f"language model: {llm['calls']} calls, {llm['tokens']} tokens, {llm['usd']:.4f} "
                "USD"
            )
        others = f"{steps['pulled']} from the shared store, " if "pulled" in steps else ""
        print(
            f"{steps['built']} steps built, {steps['cached']} from the cache, "
            f"{others}{steps['failed']} failed; {made['wall_s']} s"
        )
        return good


def _task(
    name: str, function: Any, uptodate: list[Any], doc: str, after: list[str] | None = None
) -> Task:
    call = Call(function)
    task = Task(
        name,
        [call],
        uptodate=uptodate,
        task_dep=after or [],
        doc=doc,
        verbosity=2,
        subtask_of=name.split(":")[0] if ":" in name else None,
    )
    call.task = task
    return task
