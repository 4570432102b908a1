"""Hold the nodes of the graph: a step, and the steps of one variant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sintra.core import plugins
from sintra.core.artifact import Artifact, Failure
from sintra.core.canonical import canonical, sha256
from sintra.core.stage import Hints, Params, Stage
from sintra.store.store import Outcome, Store

SCHEMA = 1


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One node of the graph."""

    stage: str  # the stage or probe that it runs
    label: str  # what it is about, in its name
    params: Params  # of the stage; part of the key
    inputs: dict[str, Step] = field(default_factory=dict)  # role -> step
    hints: Hints = field(default_factory=dict)  # where things are; never part of a key
    # The outcome once the store has it: a graph asks once for each path that leads through here.
    cached: dict[str, Outcome] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name} {self.params}"

    @property
    def name(self) -> str:
        """Return the name of its doit task."""
        return f"{self.stage}:{self.label}"

    @cached_property
    def plugin(self) -> Stage:
        """Return the stage or probe."""
        stage: Stage = plugins.load_step(self.stage)
        return stage

    def action(self, store: Store) -> dict[str, Any] | None:
        """Return all that the key is made of, or None while an input is not made (or can't be)."""
        digests = {}
        for role, step in self.inputs.items():
            outcome = step.outcome(store)
            if not isinstance(outcome, Artifact):
                return None
            digests[role] = outcome.digest
        elsewhere = {"platform": self.params["machine"]} if "machine" in self.params else {}
        return {
            "schema": SCHEMA,
            **self.plugin.identity,
            **elsewhere,
            "params": self.params,
            "inputs": digests,
        }

    def key(self, store: Store) -> str | None:
        """Return the SHA-256 of the action's canonical JSON, or None while there is no action."""
        action = self.action(store)
        return None if action is None else sha256(canonical(action))

    def outcome(self, store: Store) -> Outcome | None:
        """Return the step's outcome; the first failed input's failure where there is one."""
        if "outcome" in self.cached:
            return self.cached["outcome"]
        for step in self.inputs.values():
            above = step.outcome(store)
            if isinstance(above, Failure):
                return above
        key = self.key(store)
        outcome = None if key is None else store.lookup(key, self.accepts)
        if outcome is not None:
            self.cached["outcome"] = outcome
        return outcome

    def accepts(self, outcome: Outcome) -> bool:
        """Return whether an outcome can be this step's."""
        return self.plugin.accepts(self.params, outcome)

    def forget(self, store: Store) -> bool:
        """Drop the step's AC entry; return whether there was one."""
        key = self.key(store)
        self.cached.clear()
        return key is not None and store.forget(key)

    def all(self) -> Iterator[Step]:
        """Yield every step that this one depends on and then itself, inputs first."""
        for step in self.inputs.values():
            yield from step.all()
        yield self


class Variant(NamedTuple):
    """The steps of one recipe at one level."""

    quantize: Step  # makes the file
    quality: Step | None = None  # on the level's text
    speed: Step | None = None
    memory: Step | None = None
    second: Step | None = None  # quality on the second text
    distortion: Step | None = None
    tasks: tuple[Step, ...] = ()
    sensitivity: Step | None = None  # of the original's tensors, for who plans mixes
    extra: tuple[Step, ...] = ()  # of plugins
    board: tuple[Step, ...] = ()  # measured on the board

    def ends(self) -> list[Step]:
        """Return the steps that nothing else of this variant needs."""
        named = (
            self.distortion,
            self.sensitivity,
            self.quality,
            self.second,
            *self.tasks,
            self.speed,
            self.memory,
            *self.extra,
            *self.board,
        )
        steps = [step for step in named if step is not None]
        return steps or [self.quantize]
