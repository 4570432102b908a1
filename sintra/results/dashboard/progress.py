"""A study's graph over the store: which steps are there, which is being built, what is left."""

from __future__ import annotations

import contextlib
import json
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core.types import Failure
from sintra.study import round_files, rounds
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

Row = dict[str, Any]


@dataclass
class Progress:
    """A study that runs or ran. Only what is not known yet is looked up again."""

    workspace: Workspace
    _rounds: list[Round] = field(default_factory=list)
    _steps: dict[str, Step] = field(default_factory=dict)
    _wall: dict[str, float] = field(default_factory=dict)

    @cached_property
    def graph(self) -> Graph:
        """The study's graph."""
        return self.workspace.graph()

    def rounds(self) -> list[Round]:
        """What was proposed so far."""
        found = round_files.read_rounds(self.workspace)
        if [r.number for r in found] != [r.number for r in self._rounds] or found[
            -1:
        ] != self._rounds[-1:]:
            self._rounds = found
            self._steps = {s.name: s for r in found for s in rounds.round_steps(self.graph, r)}
        return self._rounds

    def now(self) -> Row:
        """{"stages": nodes of the graph, "edges": (from, to), "done", "total", "building": step
        names, "round", "words": of the last round, "left_s": about, by the medians of this study's
        own steps}.
        """
        known = self.rounds()
        building = self.building()
        state = {name: self.state(step, building) for name, step in self._steps.items()}
        last = known[-1] if known else None
        why = (
            last.proposals[-1].why
            if last and last.proposals
            else (last.stop if last else None) or ""
        )
        return {
            "stages": self.stages(state, building),
            "edges": self.edges(),
            "round": len(known),
            "words": why,
            "done": sum(s in ("done", "failed") for s in state.values()),
            "total": len(state),
            "building": sorted(n for n, s in state.items() if s == "building"),
            "left_s": self.left(state),
            "ended": bool(last and last.is_last),
        }

    def state(self, step: Step, building: set[str]) -> str:
        """done, failed, building or waiting."""
        found = step.outcome(self.workspace.store)
        if found is None:
            return "building" if step.name in building else "waiting"
        return "failed" if isinstance(found, Failure) else "done"

    def building(self) -> set[str]:
        """The steps that workers of this cache are at, by their orders."""
        found = set()
        for path in self.workspace.store.folder("orders").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.add(str(json.loads(path.read_text())["step"]))
        return found

    def stages(self, state: dict[str, str], building: set[str]) -> list[Row]:
        """A node for each stage, inputs first, with its depth in the graph."""
        depth: dict[str, int] = {}
        for step in self._steps.values():
            above = [
                depth[s.stage]
                for s in step.inputs.values()
                if s.stage != step.stage and s.stage in depth
            ]
            depth[step.stage] = max(depth.get(step.stage, 0), *(d + 1 for d in above), 0)
        made = []
        for stage in sorted(depth, key=lambda s: (depth[s], s)):
            own = [state[n] for n, s in self._steps.items() if s.stage == stage]
            made.append(
                {
                    "stage": stage,
                    "depth": depth[stage],
                    "total": len(own),
                    "done": own.count("done"),
                    "failed": own.count("failed"),
                    "building": own.count("building"),
                }
            )
        return made

    def edges(self) -> list[tuple[str, str]]:
        """Which stage needs which."""
        pairs = {
            (above.stage, s.stage)
            for s in self._steps.values()
            for above in s.inputs.values()
            if above.stage != s.stage
        }
        return sorted(pairs)

    def left(self, state: dict[str, str]) -> float | None:
        """Seconds for the steps that are known and not done, where steps of their kind have been
        timed.
        """
        walls: dict[str, list[float]] = {}
        for name, step in self._steps.items():
            if state[name] == "done":
                walls.setdefault(step.stage, []).append(self.wall(step))
        open_ones = [s.stage for n, s in self._steps.items() if state[n] in ("waiting", "building")]
        if not all(stage in walls for stage in open_ones):
            return None
        return sum(statistics.median(walls[stage]) for stage in open_ones)

    def wall(self, step: Step) -> float:
        """How long a step that is there took."""
        if step.name not in self._wall:
            key = step.key(self.workspace.store)
            self._wall[step.name] = float(
                ((self.workspace.store.record(key) if key else None) or {}).get("wall_s", 0.0)
            )
        return self._wall[step.name]
