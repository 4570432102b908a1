"""Follow a study in the store: which steps are done, which are being built, what is left."""

from __future__ import annotations

import contextlib
import json
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core.artifact import Failure
from sintra.results.pages.flow import StageProgress
from sintra.study import round_files, rounds
from sintra.study.round_files import Round
from sintra.study.variant_names import readable_step, step_parts, study_names
from sintra.study.workspace import Workspace

StepState = Literal["done", "failed", "building", "waiting"]


@dataclass(frozen=True)
class ProgressSnapshot:
    """A study's progress at one moment."""

    stages: list[StageProgress]  # inputs first
    edges: list[tuple[str, str]]  # (stage, stage that needs it)
    done: int  # steps that are done or failed
    total: int  # steps of the rounds so far
    building: list[str]  # names of the steps that are being built
    round: int  # number of the last round, from 1; 0 before the first
    reason: str  # of the last round's last proposal, or why the study stopped
    seconds_left: float | None  # by the medians of this study's own steps; None where unknown
    ended: bool  # whether there are no more rounds


@dataclass
class Progress:
    """A study that runs or ran. Only what is not known yet is looked up again."""

    workspace: Workspace
    _rounds: list[Round] = field(default_factory=list)  # as last read
    _steps: dict[str, Step] = field(default_factory=dict)  # name -> step, of _rounds
    _parts: dict[str, str] = field(default_factory=dict)  # see study.variant_names.step_parts
    _seconds: dict[str, float] = field(default_factory=dict)  # name of a done step -> wall time, s

    @cached_property
    def graph(self) -> Graph:
        """Return the study's graph."""
        return self.workspace.graph()

    def read_rounds(self) -> list[Round]:
        """Read the rounds so far, and their steps where the rounds have changed."""
        recorded = round_files.read_rounds(self.workspace)
        numbers, old_numbers = ([r.number for r in rs] for rs in (recorded, self._rounds))
        if numbers != old_numbers or recorded[-1:] != self._rounds[-1:]:
            self._rounds = recorded
            self._steps = {s.name: s for r in recorded for s in rounds.round_steps(self.graph, r)}
            names = study_names(self.graph, self.workspace.store, recorded)
            self._parts = step_parts(self.workspace.study.model, names)
        return self._rounds

    def snapshot(self) -> ProgressSnapshot:
        """Return the progress at this moment."""
        recorded = self.read_rounds()
        building = self.steps_being_built()
        states = {name: self.step_state(step, building) for name, step in self._steps.items()}
        last = recorded[-1] if recorded else None
        return ProgressSnapshot(
            stages=self.stage_progress(states),
            edges=self.stage_edges(),
            done=sum(state in ("done", "failed") for state in states.values()),
            total=len(states),
            building=sorted(
                readable_step(name, self._parts)
                for name, state in states.items()
                if state == "building"
            ),
            round=len(recorded),
            reason=_round_reason(last) if last else "",
            seconds_left=self.seconds_left(states),
            ended=bool(last and last.is_last),
        )

    def step_state(self, step: Step, building: set[str]) -> StepState:
        """Return a step's state. building: names of the steps that are being built."""
        outcome = step.outcome(self.workspace.store)
        if outcome is None:
            return "building" if step.name in building else "waiting"
        return "failed" if isinstance(outcome, Failure) else "done"

    def steps_being_built(self) -> set[str]:
        """Return the names of the steps that workers of this cache are at, by their orders."""
        names = set()
        for path in self.workspace.store.folder("orders").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                names.add(str(json.loads(path.read_text())["step"]))
        return names

    def stage_progress(self, states: dict[str, StepState]) -> list[StageProgress]:
        """Count the steps of each stage by their states, inputs first."""
        depth = self.stage_depths()
        by_stage: dict[str, list[StepState]] = {stage: [] for stage in depth}
        for name, step in self._steps.items():
            by_stage[step.stage].append(states[name])
        return [
            StageProgress(
                stage=stage,
                depth=depth[stage],
                total=len(by_stage[stage]),
                done=by_stage[stage].count("done"),
                failed=by_stage[stage].count("failed"),
                building=by_stage[stage].count("building"),
            )
            for stage in sorted(depth, key=lambda s: (depth[s], s))
        ]

    def stage_depths(self) -> dict[str, int]:
        """Return each stage's depth in the graph: one more than that of its deepest input."""
        depth: dict[str, int] = {}
        for step in self._steps.values():
            above = [
                depth[s.stage]
                for s in step.inputs.values()
                if s.stage != step.stage and s.stage in depth
            ]
            depth[step.stage] = max(depth.get(step.stage, 0), *(d + 1 for d in above), 0)
        return depth

    def stage_edges(self) -> list[tuple[str, str]]:
        """Return each pair of (stage, stage that needs it)."""
        pairs = {
            (above.stage, step.stage)
            for step in self._steps.values()
            for above in step.inputs.values()
            if above.stage != step.stage
        }
        return sorted(pairs)

    def seconds_left(self, states: dict[str, StepState]) -> float | None:
        """Estimate the seconds for the steps that are not done; None where no step of the same
        stage has been timed.
        """
        seconds: dict[str, list[float]] = {}
        for name, step in self._steps.items():
            if states[name] == "done":
                seconds.setdefault(step.stage, []).append(self.step_seconds(step))
        open_stages = [
            step.stage
            for name, step in self._steps.items()
            if states[name] in ("waiting", "building")
        ]
        if not all(stage in seconds for stage in open_stages):
            return None
        return sum(statistics.median(seconds[stage]) for stage in open_stages)

    def step_seconds(self, step: Step) -> float:
        """Return how long a step that is done took, in seconds; 0 where no record says so."""
        if step.name not in self._seconds:
            key = step.key(self.workspace.store)
            entry = self.workspace.store.read_entry(key) if key else None
            self._seconds[step.name] = float(entry.get("wall_s", 0.0) if entry else 0.0)
        return self._seconds[step.name]


def _round_reason(last: Round) -> str:
    """Return the reason of a round's last proposal, or why the study stopped with it."""
    return last.proposals[-1].why if last.proposals else last.stop or ""
