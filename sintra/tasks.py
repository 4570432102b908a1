"""The doit tasks. dodo.py imports this and nothing else.

A study's rounds are native delayed tasks: recorded rounds are ordinary tasks; the frontier
`round:NN` is created after `propose:NN` has written its file; each round waits for the next one, so
that `optimize` waits for all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.task import DelayedLoader, Task

from sintra import (
    attached,
    commands,
    config,
    exported,
    result,
    rounds,
    running,
    source,
    story,
    sweep,
    telling,
)
from sintra.briefing import ahead, intro, summary
from sintra.canonical import canonical
from sintra.console import CONSOLE, span
from sintra.disk import disk_trouble
from sintra.errors import UserError
from sintra.evaluation.spec import check as check_tasks
from sintra.graph import Graph
from sintra.reporter import AT_END, Reporter
from sintra.signals import stop_when_told
from sintra.steps import COUNTS, Call, say, step_task
from sintra.study import Workspace, open_workspace
from sintra.terms import side_by_side

START = time.monotonic()
MANY = ("sweep", "compare")
WORDED = ("validate", "report")  # the words behind them are studies
FREE = frozenset(
    {*commands.DOCS, *exported.names(), "help"}
    - {"optimize", "sweep", "compare", "plan", "why", "push", "pull"}
)  # these open a study
VALUED = {
    "-n",
    "-f",
    "-d",
    "-o",
    "-r",
    "-P",
    "-v",
    "--format",
    "--type",
    "--out",
    "--csv",
    "--log",
    "--minutes",
    "--plot",
    "--older",
    "--max-size",
    "--pin",
    "--unpin",
    "--endpoint",
    "--study",
    "--host",
    "--port",
}

DOIT_CONFIG = {
    "backend": "sintra",
    "dep_file": "cache/doit.db",
    "default_tasks": ["next"],
    "reporter": Reporter,
    "par_type": "thread",
    "verbosity": 2,
    "check_file_uptodate": "timestamp",
}


def configured(argv: list[str]) -> dict[str, Any]:
    """doit's settings; in a sweep a failed study doesn't stop the others, and where steps run
    elsewhere many do at once.
    """
    beside = {"num_process": n} if (n := side_by_side(config.overrides_of(argv))) else {}
    return DOIT_CONFIG | beside | ({"continue": True} if set(words(argv)) & set(MANY) else {})


def words(argv: list[str]) -> list[str]:
    """The command line's task and command names."""
    return [
        a
        for i, a in enumerate(argv)
        if not a.startswith("-") and "=" not in a and not (i and argv[i - 1] in VALUED)
    ]


def tasks(root: Path, argv: list[str]) -> Iterator[Task]:
    """Every task of this command line. A mistake of the user's ends the process: one line, exit
    code 2.
    """
    raw, named = config.overrides_of(argv), words(argv)
    try:
        if named and {"--help", "-h"} & set(argv):
            from sintra import manual  # not on the no-op path

            manual.show(root, named)
            raise SystemExit(0)
        together = next((n for n in named if n in MANY), None)
        if together is None and (
            many := [o for o in raw if sweep.several(o) and o.partition("=")[0] in config.GROUPS]
        ):
            raise UserError(f"{many[0]} names several: use `doit sweep` or `doit compare`")
        places = sweep.opened(root, raw) if together else []
        free = not named or set(named) <= FREE or named[0] in WORDED
        place = None if together or free else open_workspace(root, raw)
        for opened in [place] if place else places[:1]:
            CONSOLE.configure(opened.conf["progress"])
        for each in [place] if place and "optimize" in named else places:
            telling.check(each.conf)
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (trouble := disk_trouble(error, Path(error.filename or "the cache"))) is error:
            raise
        print(f"sintra: {trouble}", file=sys.stderr)
        raise SystemExit(1) from None
    yield from commands.tasks(root, raw, place)
    if place or places:
        stop_when_told()
    if set(named) & {"optimize", *MANY}:
        for each in [place] if place else places:
            rounds.reopen(each)
            running.note(each, rounds.ended(each))
    chains = Many(root, raw, places, together) if together else None
    if place:
        chain = Chain(place)
        if "optimize" in named:
            AT_END.extend([chain.cut, lambda: told([chain.story])])
        yield from chain.tasks()
    if chains:
        yield from chains.tasks()


def told(stories: list[story.Story]) -> None:
    """The end of what listeners hear of this process."""
    for line in story.close(stories):
        say(line)


class Many:
    """The studies of a sweep or a comparison: their chains side by side, with one table at the end."""

    def __init__(self, root: Path, raw: list[str], places: list[Workspace], command: str) -> None:
        self.root, self.raw, self.places, self.command = root, raw, places, command
        self.ended: set[str] = set()
        self.met: set[str] = set()
        self.chains: list[Chain] = []

    def tasks(self) -> Iterator[Task]:
        """Every chain; one study's end doesn't wait for another's, and neither does the table."""
        seen: set[str] = set()
        self.chains = [Chain(place, place.study.id, seen, self.done) for place in self.places]
        for chain in self.chains:
            yield from chain.tasks()
        cells = [f"cell:{p.study.id}" for p in self.places]
        yield _task(self.command, self.every_met, [False], commands.DOCS[self.command], cells)
        AT_END.extend([self.close, lambda: told([c.story for c in self.chains])])

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
        from sintra import overview  # not on the no-op path

        for chain in self.chains:
            chain.cut()
        rows = sweep.results(self.root, self.places, self.ended)
        overview.tell(self.root, self.raw, rows, self.command)


class Chain:
    """The rounds of one study as tasks. Beside others: mark, the study's name, is in the tasks that
    are its own; seen are the steps that are tasks already; done is called with the result in the
    place of printing it.
    """

    def __init__(
        self,
        place: Workspace,
        mark: str = "",
        seen: set[str] | None = None,
        done: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.place, self.mark, self.done = place, mark, done
        self.told = self.concluded = False
        self.seen = set() if seen is None else seen
        self.story = story.Story(place)

    def tasks(self) -> Iterator[Task]:
        """resolve, what is recorded, the frontier, and `optimize` behind all of it."""
        first, last = self.named("resolve"), self.named("cell") if self.mark else "optimize"
        yield _task(first, self.resolve, [self._resolved], "Pin a hub model to its commit")
        known = rounds.recorded(self.place) if self.place.ready else []
        if self.place.conf["refresh"]:
            known = []
        yield from self.round(known[0]) if known else self.frontier(1, [first])
        yield _task(
            last, self.conclude, [False], commands.DOCS["optimize"], [self.named("round", 1)]
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

    def round(self, given: rounds.Round) -> Iterator[Task]:
        """A recorded round: its steps, its group, and, unless it was the last, what comes after it."""
        number, store = given["round"], self.place.store
        graph = self.place.graph()
        names = []
        reasons = rounds.reasons(graph, given)
        for step in rounds.steps_of(graph, given):
            names.append(step.name)
            if step.name not in self.seen:
                self.seen.add(step.name)
                yield step_task(step, store, self.place.terms, reasons.get(step.name))
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
            later = rounds.recorded(self.place)[number:]
            yield from self.round(later[0]) if later else self.frontier(number + 1, names)

    def frontier(self, number: int, after: list[str]) -> Iterator[Task]:
        """The planner's next word, and the round that is made of it."""
        name = self.named("propose", number)
        anew = number == 1 and self.place.conf["refresh"]
        path = rounds.path_of(self.place, number)
        yield _task(
            name,
            lambda: self.propose(number),
            [False if anew else lambda: rounds.read(path) is not None],
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
        known = rounds.recorded(self.place)
        if len(known) >= number:
            yield from self.round(known[number - 1])
        else:
            yield Task(self.named("round", number), None, has_subtask=True)

    def _resolved(self) -> bool:
        return not self.place.conf["refresh"] and self.place.ready

    def resolve(self) -> None:
        """Pin the model, and ask the board what it is."""
        store, model, device = self.place.store, self.place.conf["model"], self.place.conf["device"]
        anew = self.place.conf["refresh"]
        self.tell()
        if not attached.ready(store, device) or (anew and device["name"] != attached.LOCAL):
            say(f"board   {attached.resolve(store, device, say)}")
        if self.place.pinned() is None or (
            anew and source.pinned_hub(store, model["source"], model["revision"])
        ):
            found = source.resolve_hub(self.place.store, model["source"], model["revision"])
            say(f"pinned  {found.locator} at {found.digest}")

    def tell(self) -> None:
        """What is about to happen, once, before anything takes long."""
        if not self.told:
            self.told = True
            say(
                intro(self.place) if self.done is None else f"study   {self.place.study.id}",
                "study",
                study=self.place.study.id,
            )

    def propose(self, number: int) -> None:
        """Write the round's file."""
        if number == 1:
            check_tasks(self.place.tasks.values())
            for path in self.place.folder.glob("round-*.json"):
                path.unlink()
            self.tell()
        known, graph = rounds.recorded(self.place)[: number - 1], self.place.graph()
        rounds.write_keys(self.place, graph, known)
        self.story.so_far(graph, known)
        given = self.planned(graph, known)
        rounds.write_round(self.place, given)
        count, seconds = ahead(graph, self.place.store, given)
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

    def planned(self, graph: Graph, known: list[rounds.Round]) -> rounds.Round:
        """The next round: the planner's, or what others have planned from the same."""
        store = self.place.store
        if store.shared is None or self.place.conf["refresh"]:
            return rounds.next_round(graph, store, known, say)
        from sintra import sharing

        recalled = sharing.recalled(self.place, graph, known)
        return recalled or sharing.remember(
            self.place, graph, known, rounds.next_round(graph, store, known, say)
        )

    def report(self) -> None:
        """The page that people look at, unless it is there: a result that has changed takes it
        away.
        """
        if not (self.place.outputs / "report.html").is_file():
            from sintra import account  # not on the no-op path

            account.write(self.place.root, self.place.study.id, self.place)

    def cut(self) -> None:
        """Where the run's time was up: judge and deliver what is known so far. The recorded rounds
        stay as they are.
        """
        known, terms = rounds.recorded(self.place), self.place.terms
        if self.concluded or not terms.over or not known:
            return
        found = rounds.candidates(self.place.graph(), self.place.store, known)
        if any(c.artifact for c in found):
            self.conclude(
                [
                    *known[:-1],
                    known[-1]
                    | {"stop": f"the run's time was up (limits.study_minutes={terms.minutes:g})"},
                ]
            )

    def conclude(self, known: list[rounds.Round] | None = None) -> bool:
        """Judge, deliver, tell."""
        self.concluded = True
        known = known or rounds.recorded(self.place)
        graph = self.place.graph()
        found = rounds.candidates(graph, self.place.store, known)
        rounds.write_keys(self.place, graph, known)
        made = result.build(self.place, known, found, dict(COUNTS), time.monotonic() - START)
        wrong = result.deliver(self.place, made, found, known, graph)
        self.report()
        if wrong:
            say(f"invalid {made['study']}: {wrong}; outputs/latest doesn't point to it")
        self.story.end(graph, known, made)
        if self.done is not None:
            self.done(made | ({"status": "invalid"} if wrong else {}))
            # that a goal is missed is the sweep's to say: what waits for a failed task is never run
            return True
        good = made["status"] == "met" and not wrong
        if CONSOLE.mode == "json":
            print(canonical(made))
            return good
        if CONSOLE.mode != "quiet":
            print(result.table(made, found, self.place.study.goal))
        print(result.advice(made))
        if CONSOLE.mode == "quiet":
            return good
        print(f"the whole of it, as a page: outputs/{made['study']}/report.html")
        if made["status"] != "met" and (line := result.adviser_at_hand(self.place.study.planner)):
            print(line)
        steps, llm = made["steps"], made["llm"]
        if llm["calls"]:
            print(
                
                    f"language model: {llm['calls']} calls, {llm['tokens']} tokens, "
                    f"{llm['usd']:.4f} "
                    "USD"
                
            )
        others = f"{steps['pulled']} from the shared store, " if "pulled" in steps else ""
        print(
            f"{steps['built']} steps built, {steps['cached']} from the cache, "
            f"{others}{steps['failed']} failed; "
            f"{made['wall_s']} s"
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
