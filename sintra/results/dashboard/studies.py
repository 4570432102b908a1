"""Read what the dashboard shows: the list of studies, and one study as it stands at this moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sintra.core.errors import UserError
from sintra.core.types import Goal
from sintra.results.dashboard.progress import Progress, ProgressSnapshot
from sintra.results.pages.candidate_rows import CandidateLine, candidate_line, candidate_lines
from sintra.results.pages.command_lines import public_override
from sintra.results.pages.words import hide_folders, measurements_by_metric
from sintra.results.result import candidate_json
from sintra.store.files import read_regular
from sintra.store.store import Store
from sintra.study import running
from sintra.study.candidates import collect_candidates
from sintra.study.json_types import ResultJson
from sintra.study.result_upgrade import parse_result
from sintra.study.workspace import Workspace, cache_root, open_workspace

LOG_BYTES, LOG_LINES = 4000, 12  # the end of a log that is shown
FileMark = tuple[int, int]  # time of the last change, ns; size, bytes


@dataclass(frozen=True)
class StudyRow:
    """A study in the list and in comparisons."""

    name: str
    state: str  # "running", "stopped", or the status of its result
    when: float  # the result's time, or that of the start, Unix seconds
    ago: str  # how long that is past
    model: str
    hardware: str  # name of the profile; "" before there is a result
    goal: str  # name of the goal; "" before there is a result
    winner: str  # the winner's recipe; "" where there is none
    metrics: dict[str, float]  # metric -> the winner's value
    kld_error: float | None  # standard error of the winner's mean KLD, nats


@dataclass(frozen=True)
class StudySnapshot:
    """One study at this moment."""

    row: StudyRow
    progress: ProgressSnapshot | None  # None for a study that has ended
    candidates: list[CandidateLine]
    result: ResultJson | None  # of the last run that ended
    options: list[str]  # the study's overrides as others may see them
    log: list[str]  # the last lines that it wrote
    goal: Goal | None  # None where the study's options can't be opened any more
    device: str  # the device's title
    has_report: bool


@dataclass
class Studies:
    """The studies of one project."""

    root: Path
    _results: dict[Path, tuple[FileMark, ResultJson | None]] = field(default_factory=dict)
    _progress: dict[str, Progress] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """Return the project's cache."""
        return Store(cache_root(self.root, []))

    def folder(self, name: str) -> Path:
        """Return the folder of a study's rounds."""
        return self.store.root / "studies" / name

    def names(self) -> Iterator[str]:
        """Yield every study that has a result or has been started."""
        finished = {
            p.parent.name
            for p in (self.root / "outputs").glob("*/result.json")
            if not p.parent.is_symlink()
        }
        notes = (self.store.root / "studies").glob(f"*/{running.NOTE}")
        yield from sorted(finished | {p.parent.name for p in notes})

    def has_study(self, name: str) -> bool:
        """Return whether there is such a study; a path in the place of a name is none."""
        return name in set(self.names())

    def read_result(self, name: str) -> ResultJson | None:
        """Read a study's result.json, again only where its time or size has changed."""
        path = self.root / "outputs" / name / "result.json"
        try:
            mark = (path.stat().st_mtime_ns, path.stat().st_size)
            if self._results.get(path, (None,))[0] != mark:
                self._results[path] = (mark, parse_result(read_regular(path)))
        except (OSError, ValueError, RecursionError):
            return None
        return self._results[path][1]

    def study_rows(self) -> list[StudyRow]:
        """Return a row for each study: those that run first, then the newest."""
        rows = [self.study_row(name) for name in self.names()]
        return sorted(rows, key=lambda row: (row.state != "running", -row.when))

    def study_row(self, name: str) -> StudyRow:
        """Return a study in a row."""
        result, note = self.read_result(name), running.read_run_note(self.folder(name))
        winner = result["winner"] if result else None
        measurements = measurements_by_metric(winner) if winner else {}
        path = self.root / "outputs" / name / "result.json"
        when = max(path.stat().st_mtime if result else 0.0, note["started"] if note else 0.0)
        return StudyRow(
            name=name,
            state="running"
            if note and note["alive"]
            else result["status"]
            if result
            else "stopped",
            when=when,
            ago=format_age(time.time() - when),
            model=result["model"] if result else name.split("-")[0],
            hardware=result["hardware"] if result else "",
            goal=result["goal"]["name"] if result else "",
            winner=winner["name"] if winner else "",
            metrics={metric: m["value"] for metric, m in measurements.items()},
            kld_error=measurements["kld_mean"].get("stderr")
            if "kld_mean" in measurements
            else None,
        )

    def has_report(self, name: str) -> bool:
        """Return whether the study's report is there."""
        return (self.root / "outputs" / name / "report.html").is_file()

    def read_overrides(self, name: str) -> list[str] | None:
        """Read the options that a study was started with; None where they are not recorded."""
        note = running.read_run_note(self.folder(name))
        if note:
            return [str(o) for o in note["overrides"]]
        try:
            manifest = json.loads(read_regular(self.root / "outputs" / name / "manifest.json"))
            overrides: list[str] = manifest["overrides"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return overrides

    def open_progress(self, name: str) -> Progress | None:
        """Return the study's graph over the store; None where its options can't be opened any
        more.
        """
        if name not in self._progress:
            workspace = self.open_study(name)
            if workspace is None:
                return None
            self._progress[name] = Progress(workspace)
        return self._progress[name]

    def open_study(self, name: str) -> Workspace | None:
        """Open the study's workspace; None where its model, texts or options have changed."""
        overrides = self.read_overrides(name)
        if overrides is None:
            return None
        try:
            workspace = open_workspace(self.root, overrides)
        except UserError:
            return None
        same = workspace.study.id == name and workspace.pinned() is not None
        return workspace if same else None

    def snapshot(self, name: str) -> StudySnapshot:
        """Return one study as it stands: its row, progress, candidates and the end of its log."""
        row, result = self.study_row(name), self.read_result(name)
        progress = self.open_progress(name)
        moving = progress if row.state in ("running", "stopped") or result is None else None
        lines = candidate_lines(result) if result else []
        return StudySnapshot(
            row=row,
            progress=moving.snapshot() if moving else None,
            candidates=self.measured_so_far(moving) if moving else lines,
            result=result,
            options=[public_override(self.root, o) for o in self.read_overrides(name) or []],
            log=self.log_tail(name),
            goal=progress.workspace.study.goal if progress else None,
            device=progress.workspace.study.hardware.title if progress else row.hardware,
            has_report=self.has_report(name),
        )

    def measured_so_far(self, progress: Progress) -> list[CandidateLine]:
        """Return the candidates of a study that has not ended, those that hold every limit first,
        then by size.
        """
        goal = progress.workspace.study.goal
        measured = collect_candidates(
            progress.graph, progress.workspace.store, progress.read_rounds()
        )
        lines = [
            candidate_line(candidate_json(c, goal), False)
            for c in measured
            if c.measurements or c.failure
        ]
        return sorted(lines, key=lambda line: (not line.holds, line.bytes or 0))

    def log_tail(self, name: str) -> list[str]:
        """Return the last lines that a study started here wrote."""
        path = self.store.root / "runs" / f"{name}.log"
        if not path.is_file():
            return []
        lines = path.read_text(errors="replace")[-LOG_BYTES:].splitlines()
        return [hide_folders(line) for line in lines[-LOG_LINES:]]


def format_age(seconds: float) -> str:
    """Return how long something is past, such as "5 min ago"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "just now"
