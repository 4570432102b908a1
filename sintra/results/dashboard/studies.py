"""What the dashboard shows of studies, as plain values: the list, and one study as it stands at
this moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.results.dashboard.progress import Progress
from sintra.results.pages.report import candidate
from sintra.results.pages.report_data import shown
from sintra.results.pages.words import discreet, numbers
from sintra.results.result import candidate_json
from sintra.store.store import Store
from sintra.study import running
from sintra.study.candidates import collect_candidates
from sintra.study.workspace import Workspace, cache_root, open_workspace

Row = dict[str, Any]


@dataclass
class Studies:
    """The studies of one project. What was read is kept by the time and size of its file."""

    root: Path
    _results: dict[Path, tuple[tuple[int, int], Row]] = field(default_factory=dict)
    _open: dict[str, Progress] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The project's cache."""
        return Store(cache_root(self.root, []))

    def folder(self, name: str) -> Path:
        """Where a study's rounds lie."""
        return self.store.root / "studies" / name

    def names(self) -> Iterator[str]:
        """Every study that has a result or has been begun."""
        done = {
            p.parent.name
            for p in (self.root / "outputs").glob("*/result.json")
            if not p.parent.is_symlink()
        }
        yield from sorted(
            done | {p.parent.name for p in (self.store.root / "studies").glob(f"*/{running.NOTE}")}
        )

    def known(self, name: str) -> bool:
        """Whether there is such a study; no path can be smuggled in by a name."""
        return name in set(self.names())

    def result(self, name: str) -> Row | None:
        """A study's result.json."""
        path = self.root / "outputs" / name / "result.json"
        try:
            mark = (path.stat().st_mtime_ns, path.stat().st_size)
            if self._results.get(path, (None,))[0] != mark:
                self._results[path] = (mark, json.loads(path.read_text()))
        except (OSError, ValueError):
            return None
        return self._results[path][1]

    def listing(self) -> list[Row]:
        """A row a study: those that run first, then the newest."""
        rows = [self.line(name) for name in self.names()]
        return sorted(rows, key=lambda r: (r["state"] != "running", -r["when"]))

    def line(self, name: str) -> Row:
        """A study in a row."""
        result, note = self.result(name), running.read_run_note(self.folder(name))
        winner = result["winner"] if result else None
        values = numbers(winner) if winner else {}
        path = self.root / "outputs" / name / "result.json"
        when = max(path.stat().st_mtime if result else 0.0, note["started"] if note else 0.0)
        state = "running" if note and note["alive"] else result["status"] if result else "stopped"
        return {
            "name": name,
            "state": state,
            "when": when,
            "ago": ago(time.time() - when),
            "model": result["model"] if result else name.split("-")[0],
            "hardware": result["hardware"] if result else "",
            "goal": result["goal"]["name"] if result else "",
            "winner": Recipe.of(winner["recipe"]).name if winner else "",
            "values": {k: m["value"] for k, m in values.items()},
            "kld_error": values["kld_mean"].get("stderr") if "kld_mean" in values else None,
        }

    def report(self, name: str) -> bool:
        """Whether the study's report is there."""
        return (self.root / "outputs" / name / "report.html").is_file()

    def overrides(self, name: str) -> list[str] | None:
        """The options that a study was begun with."""
        note = running.read_run_note(self.folder(name))
        if note:
            return [str(o) for o in note["overrides"]]
        try:
            found: list[str] = json.loads(
                (self.root / "outputs" / name / "manifest.json").read_text()
            )["overrides"]
        except (OSError, ValueError, KeyError):
            return None
        return found

    def opened(self, name: str) -> Progress | None:
        """The study's graph over the store; None where its options can't be opened any more."""
        if name not in self._open:
            workspace = self.workspace(name)
            if workspace is None:
                return None
            self._open[name] = Progress(workspace)
        return self._open[name]

    def workspace(self, name: str) -> Workspace | None:
        """The study's workspace, where it is still what it was."""
        given = self.overrides(name)
        try:
            workspace = open_workspace(self.root, given) if given is not None else None
        except UserError:
            return None
        return (
            workspace
            if workspace and workspace.study.id == name and workspace.pinned() is not None
            else None
        )

    def snapshot(self, name: str) -> Row:
        """One study as it stands: its row, its progress, its candidates, the end of its log."""
        line, result = self.line(name), self.result(name)
        progress = self.opened(name)
        moving = line["state"] in ("running", "stopped") or result is None
        made = (
            [
                candidate(c, i == 0 and result["winner"] is not None)
                for i, c in enumerate(result["candidates"])
            ]
            if result
            else []
        )
        if moving and progress:
            made = self.so_far(progress)
        return line | {
            "progress": progress.now() if moving and progress else None,
            "rows": made,
            "result": result,
            "options": [shown(self.root, o) for o in self.overrides(name) or []],
            "log": self.log(name),
            "goal_conf": progress.workspace.study.goal if progress else None,
            "device": progress.workspace.study.hardware.title if progress else line["hardware"],
            "report": self.report(name),
        }

    def so_far(self, progress: Progress) -> list[Row]:
        """What is measured of a study that has not ended."""
        goal = progress.workspace.study.goal
        found = collect_candidates(progress.graph, progress.workspace.store, progress.rounds())
        rows = [
            candidate(candidate_json(c, goal), False) for c in found if c.measurements or c.failure
        ]
        return sorted(rows, key=lambda r: (not r["holds"], r["bytes"] or 0))

    def log(self, name: str) -> list[str]:
        """The last lines that a study begun here wrote."""
        path = self.store.root / "runs" / f"{name}.log"
        if not path.is_file():
            return []
        return [
            discreet(line) for line in path.read_text(errors="replace")[-4000:].splitlines()[-12:]
        ]


def ended(result: Row) -> list[Row]:
    """The candidates of a result, the best first."""
    return [
        candidate(c, i == 0 and result["winner"] is not None)
        for i, c in enumerate(result["candidates"])
    ]


def ago(seconds: float) -> str:
    """How long something is past."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"
