"""Nodes of the graph: steps, and those of one variant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from sintra.core import plugins
from sintra.core.canonical import canonical, sha256
from sintra.core.stage import Stage
from sintra.core.types import Artifact, Failure
from sintra.store.store import Outcome, Store

SCHEMA = 1


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One node of the graph. `hints` say where things are and are never part of a key.

    found: the outcome once the store has had it, since a graph asks for it once for each path that
    leads through here.
    """

    stage: str
    label: str
    params: dict[str, Any]
    inputs: dict[str, Step] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Outcome] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name} {self.params}"

    @property
    def name(self) -> str:
        """The name of its doit task."""
        return f"{self.stage}:{self.label}"

    @cached_property
    def plugin(self) -> Stage:
        """The stage's code."""
        stage: Stage = plugins.load_step(self.stage)
        return stage

    def action(self, store: Store) -> dict[str, Any] | None:
        """Everything that the key is made of, or None while an input has not been made (or can't
        be).
        """
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
        """SHA-256 of the action's canonical JSON."""
        action = self.action(store)
        return None if action is None else sha256(canonical(action))

    def outcome(self, store: Store) -> Outcome | None:
        """What the store holds for this step; the first failed input's failure when there is one."""
        if "outcome" in self.found:
            return self.found["outcome"]
        for step in self.inputs.values():
            above = step.outcome(store)
            if isinstance(above, Failure):
                return above
        key = self.key(store)
        outcome = None if key is None else store.lookup(key)
        if outcome is not None:
            self.found["outcome"] = outcome
        return outcome

    def forget(self, store: Store) -> bool:
        """Drop the step's AC entry; whether there was one."""
        key = self.key(store)
        self.found.clear()
        return key is not None and store.forget(key)

    def all(self) -> Iterator[Step]:
        """This step and everything above it, inputs first."""
        for step in self.inputs.values():
            yield from step.all()
        yield self


class Variant(NamedTuple):
    """The steps of one recipe."""

    quantize: Step
    quality: Step | None = None
    speed: Step | None = None
    memory: Step | None = None
    second: Step | None = None
    distortion: Step | None = None
    tasks: tuple[Step, ...] = ()
    extra: tuple[Step, ...] = ()
    board: tuple[Step, ...] = ()

    def ends(self) -> list[Step]:
        """The steps that nothing else of this variant needs."""
        named = (
            self.distortion,
            self.quality,
            self.second,
            *self.tasks,
            self.speed,
            self.memory,
            *self.extra,
            *self.board,
        )
        found = [s for s in named if s is not None]
        return found or [self.quantize]
