"""The doit tasks. dodo.py imports this and nothing else.

A study's rounds are native delayed tasks: recorded rounds are ordinary tasks; the frontier `round:NN` is created after
`propose:NN` has written its file; each round waits for the next one, so that `optimize` waits for all.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.task import DelayedLoader, Task

from sintra import commands, config, result, rounds, source, sweep
from sintra.branches import left_out
from sintra.errors import UserError
from sintra.evaluation.spec import check as check_tasks
from sintra.reporter import AT_END, Reporter
from sintra.signals import stop_when_told
from sintra.steps import COUNTS, Call, say, step_task
from sintra.study import Workspace, open_workspace
from sintra.terms import side_by_side

NAMED = 4
PLANNING = threading.Lock()  # modules that are loaded lazily (sintra/lazy.py) must not be loaded by two threads at once
START = time.monotonic()
MANY = ("sweep", "compare")
FREE = frozenset(
    ["next", "history", "verify", "gc", "rollback", "export_ollama", "ab", "surgery", "help", "check", *commands.DEVICE]
)
VALUED = {"-n", "-f", "-d", "-o", "-r", "-P", "-v", "--format", "--type", "--out", "--csv", "--log", "--minutes", "--plot"}

DOIT_CONFIG = {
    "backend": "sqlite3", "dep_file": "cache/doit.db", "default_tasks": ["next"], "reporter": Reporter,
    "par_type": "thread", "verbosity": 2, "check_file_uptodate": "timestamp",
}  # fmt: skip


def configured(argv: list[str]) -> dict[str, Any]:
    """doit's settings; in a sweep a failed study doesn't stop the others, and where steps run elsewhere many do at once."""
    beside = {"num_process": n} if (n := side_by_side(config.overrides_of(argv))) else {}
    return DOIT_CONFIG | beside | ({"continue": True} if set(words(argv)) & set(MANY) else {})


def words(argv: list[str]) -> list[str]:
    """The command line's task and command names."""
    return [a for i, a in enumerate(argv) if not a.startswith("-") and "=" not in a and not (i and argv[i - 1] in VALUED)]


def tasks(root: Path, argv: list[str]) -> Iterator[Task]:
    """Every task of this command line. A mistake of the user's ends the process: one line, exit code 2."""
    raw, named = config.overrides_of(argv), words(argv)
    try:
        together = next((n for n in named if n in MANY), None)
        if together is None and (many := [o for o in raw if sweep.several(o) and o.partition("=")[0] in config.GROUPS]):
            raise UserError(f"{many[0]} names several: use `doit sweep` or `doit compare`")
        places = sweep.opened(root, raw) if together else []
        place = None if together or (named and set(named) <= FREE) or not named else open_workspace(root, raw)
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    yield from commands.tasks(root, raw, place)
    if place or places:
        stop_when_told()
    if set(named) & {"optimize", *MANY}:
        for each in [place] if place else places:
            rounds.reopen(each)
    if place:
        chain = Chain(place)
        yield from chain.tasks()
        if "optimize" in named:
            AT_END.append(chain.cut)
    if together:
        yield from Many(root, raw, places, together).tasks()


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
        for place in self.places:
            self.chains.append(Chain(place, place.study.id, seen, self.done))
            yield from self.chains[-1].tasks()
        cells = [f"cell:{p.study.id}" for p in self.places]
        yield _task(self.command, self.every_met, [False], commands.DOCS[self.command], cells)
        AT_END.append(self.close)

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
    """The rounds of one study as tasks. Beside others: mark, the study's name, is in the tasks that are its own; seen are the
    steps that are tasks already; done is called with the result in the place of printing it."""

    def __init__(self, place: Workspace, mark: str = "", seen: set[str] | None = None,
                 done: Callable[[dict[str, Any]], None] | None = None) -> None:  # fmt: skip
        self.place, self.mark, self.done = place, mark, done
        self.concluded = False
        self.seen = set() if seen is None else seen

    def tasks(self) -> Iterator[Task]:
        """resolve, what is recorded, the frontier, and `optimize` behind all of it."""
        first, last = self.named("resolve"), self.named("cell") if self.mark else "optimize"
        yield _task(first, self.resolve, [self._resolved], "Pin a hub model to its commit")
        known = rounds.recorded(self.place) if self.place.pinned() else []
        if self.place.conf["refresh"]:
            known = []
        yield from self.round(known[0]) if known else self.frontier(1, [first])
        yield _task(last, self.conclude, [False], commands.DOCS["optimize"], [self.named("round", 1)])

    def named(self, kind: str, number: int | None = None) -> str:
        """A task of this study's own."""
        return ":".join([kind, *([self.mark] if self.mark else []), *([f"{number:02}"] if number is not None else [])])

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
            self.named("round", number), None, task_dep=group, has_subtask=True, doc=f"Round {number}", subtask_of="round"
        )
        if not last:
            later = rounds.recorded(self.place)[number:]
            yield from self.round(later[0]) if later else self.frontier(number + 1, names)

    def frontier(self, number: int, after: list[str]) -> Iterator[Task]:
        """The planner's next word, and the round that is made of it."""
        name = self.named("propose", number)
        anew = number == 1 and self.place.conf["refresh"]
        written = rounds.path_of(self.place, number).exists
        yield _task(name, lambda: self.propose(number), [False if anew else written], f"Plan round {number}", after)
        yield Task(self.named("round", number), None, loader=DelayedLoader(lambda: self.created(number), executed=name),
                   task_dep=[name], doc=f"Round {number}", subtask_of="round")  # fmt: skip

    def created(self, number: int) -> Iterator[Task]:
        """Called by doit after the planner; guarded, since with --continue it is called even when that failed."""
        known = rounds.recorded(self.place)
        if len(known) >= number:
            yield from self.round(known[number - 1])
        else:
            yield Task(self.named("round", number), None, has_subtask=True)

    def _resolved(self) -> bool:
        return not self.place.conf["refresh"] and self.place.pinned() is not None

    def resolve(self) -> None:
        """Pin the model."""
        model = self.place.conf["model"]
        if self.place.pinned() is None or source.pinned_hub(self.place.store, model["source"], model["revision"]):
            found = source.resolve_hub(self.place.store, model["source"], model["revision"])
            say(f"pinned  {found.locator} at {found.digest}")

    def propose(self, number: int) -> None:
        """Write the round's file."""
        if number == 1:
            check_tasks(self.place.tasks.values())
            for path in self.place.folder.glob("round-*.json"):
                path.unlink()
            say(intro(self.place) if self.done is None else f"study   {self.place.study.id}")
        known, graph = rounds.recorded(self.place)[: number - 1], self.place.graph()
        rounds.write_keys(self.place, graph, known)
        with PLANNING:
            given = rounds.next_round(graph, self.place.store, known, say)
        rounds.write_round(self.place, given)
        say(f"round {number}: {summary(given)}" if self.done is None else f"round {number} of {self.mark}: {summary(given)}")

    def cut(self) -> None:
        """Where the run's time was up: judge and deliver what is known so far. The recorded rounds stay as they are."""
        known, terms = rounds.recorded(self.place), self.place.terms
        if self.concluded or not terms.over or not known:
            return
        found = rounds.candidates(self.place.graph(), self.place.store, known)
        if any(c.artifact for c in found):
            self.conclude(
                [*known[:-1], known[-1] | {"stop": f"the run's time was up (limits.study_minutes={terms.minutes:g})"}]
            )

    def conclude(self, known: list[rounds.Round] | None = None) -> bool:
        """Judge, deliver, tell."""
        self.concluded = True
        known = known or rounds.recorded(self.place)
        graph = self.place.graph()
        found = rounds.candidates(graph, self.place.store, known)
        rounds.write_keys(self.place, graph, known)
        made = result.build(self.place, known, found, dict(COUNTS), time.monotonic() - START)
        result.deliver(self.place, made, found, known, graph)
        if self.done is not None:
            self.done(made)
            return True  # that a goal is missed is the sweep's to say: what waits for a failed task is never run
        print(result.table(made, found, self.place.study.goal))
        print(result.advice(made))
        if made["status"] != "met" and (line := result.adviser_at_hand(self.place.study.planner)):
            print(line)
        steps, llm = made["steps"], made["llm"]
        if llm["calls"]:
            print(f"language model: {llm['calls']} calls, {llm['tokens']} tokens, {llm['usd']:.4f} USD")
        print(f"{steps['built']} steps built, {steps['cached']} from the cache, {steps['failed']} failed; {made['wall_s']} s")
        return bool(made["status"] == "met")


def summary(given: rounds.Round) -> str:
    """A round in a line: the variants by name, or the first of many, or why there is none."""
    proposed = rounds.proposals(given)
    named = [f"{p.recipe.name} ({p.level})" for p in proposed]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    why = f": {proposed[-1].why}" if more or len(named) == 1 else ""
    return ", ".join(named[:NAMED]) + more + why if named else str(given["stop"])


def intro(place: Workspace) -> str:
    """What is about to happen, and how to stop it."""
    study = place.study
    limits = ", ".join(f"{c.metric} {c.op} {c.limit:g}" for c in study.goal.constraints)
    first = (f"{study.model} for {study.hardware.title}: {study.goal.optimise} {'down' if study.goal.sense > 0 else 'up'}, "
             f"with {limits}")  # fmt: skip
    return "\n".join([first, *left_out(study), "stop with Ctrl-C; the same command goes on where it stopped"])


def _task(name: str, function: Any, uptodate: list[Any], doc: str, after: list[str] | None = None) -> Task:
    call = Call(function)
    task = Task(name, [call], uptodate=uptodate, task_dep=after or [], doc=doc, verbosity=2,
                subtask_of=name.split(":")[0] if ":" in name else None)  # fmt: skip
    call.task = task
    return task
