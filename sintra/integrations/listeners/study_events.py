"""A study as events for its listeners: its start, each round with its candidates, its end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypedDict

from sintra.build.graph import Graph
from sintra.config.options import unnamed
from sintra.core import process
from sintra.core.recipe import Recipe
from sintra.core.types import Level
from sintra.integrations.listeners.feed import Feed, StudyFeed
from sintra.results import outputs, result
from sintra.study import candidates, round_files
from sintra.study.round_files import Round
from sintra.study.variant_names import study_names
from sintra.study.workspace import Workspace

LEVELS: tuple[Level, ...] = ("search", "report")  # of proposals that are published when measured
UNPUBLISHED = ("candidates", "learned")  # parts of a result that an end leaves out


class StartData(TypedDict):
    """What a study is asked for: the data of "started"."""

    model: str
    hardware: str  # name of the device profile
    formats: list[str]
    seed: int
    goal: dict[str, object]  # name, optimise, and each limit by its option
    planner: dict[str, object]  # name, and its options
    probe: dict[str, Any]  # options of measuring


class ProposalData(TypedDict):
    """A proposal in the data of "round"."""

    name: str  # of its recipe
    level: Level
    author: str  # the planner
    why: str


class RoundData(TypedDict):
    """A round without the bulk of its proposals: the data of "round", but for its number."""

    proposals: list[ProposalData]
    stop: str | None  # why it was the last; None where it wasn't


class FailureData(TypedDict):
    """What failed: the data of "failed"."""

    reason: str
    model: str
    hardware: str  # name of the device profile
    goal: dict[str, Any]  # sintra.core.types.Goal as JSON


class StudyEvents:
    """One study's events, published as it goes on. Without listeners it does nothing."""

    def __init__(self, workspace: Workspace, feed: Feed) -> None:
        self.workspace = workspace
        self.study_feed = StudyFeed(
            asdict(workspace.config), workspace.study.id, workspace.root, workspace.store.root, feed
        )

    def publish_rounds(self, graph: Graph, rounds: list[Round]) -> None:
        """Publish every round that listeners lack. rounds: all that are over, and measured."""
        first = self.study_feed.published.state["rounds"]
        if not self.study_feed.listeners or first >= len(rounds):
            return
        self.study_feed.publish_start(start_data(self.workspace))
        names = study_names(graph, self.workspace.store, rounds)
        for number in range(first + 1, len(rounds) + 1):
            rows = candidate_rows(self.workspace, graph, rounds[:number])
            data = round_data(rounds[number - 1], names)
            self.study_feed.publish_round(number, data, rows, self.round_end(number))

    def round_end(self, number: int) -> float:
        """Return when a round was over, seconds since the epoch: when the next was written."""
        path = round_files.round_path(self.workspace, number + 1)
        return path.stat().st_mtime if path.exists() else time.time()

    def publish_result(
        self, graph: Graph, rounds: list[Round], study_result: Mapping[str, Any]
    ) -> None:
        """Publish the study's end, unless the listeners have received this result."""
        if not self.study_feed.listeners:
            return
        lasting = {k: v for k, v in study_result.items() if k not in outputs.PER_RUN}
        if digest := self.study_feed.unpublished_digest(lasting):
            self.publish_rounds(graph, rounds)
            self.study_feed.publish_start(start_data(self.workspace))
            self.study_feed.publish_end(end_data(study_result), digest)
        self.study_feed.mark_ended()

    def publish_failure(self, reason: str) -> None:
        """Publish that the study has stopped without an end, unless it had one."""
        if self.study_feed.has_ended:
            return
        if self.study_feed.listeners:
            self.study_feed.publish_start(start_data(self.workspace))
        self.study_feed.publish("failed", failure_data(self.workspace, reason))


def start_data(workspace: Workspace) -> StartData:
    """Return what a study is asked for."""
    study = workspace.study
    limits = {c.option.removeprefix("goal."): c.limit for c in study.goal.constraints}
    return {
        "model": study.model,
        "hardware": study.hardware.name,
        "formats": list(study.formats),
        "seed": study.seed,
        "goal": {"name": study.goal.name, "optimise": study.goal.optimise, **limits},
        "planner": asdict(study.planner),
        "probe": unnamed(study.probe),
    }


def round_data(study_round: Round, names: Mapping[Recipe, str]) -> RoundData:
    """Return a round without the bulk of its proposals."""
    proposals: list[ProposalData] = [
        {"name": names[p.recipe], "level": p.level, "author": p.author, "why": p.why}
        for p in study_round.proposals
    ]
    return {"proposals": proposals, "stop": study_round.stop}


def candidate_rows(workspace: Workspace, graph: Graph, rounds: list[Round]) -> list[dict[str, Any]]:
    """Return the variants that were measured in the last of these rounds.

    They are rows of result.json with one more key, measured_in (the round, from 1).
    """
    recipes = {p.recipe for p in rounds[-1].proposals if p.level in LEVELS}
    return [
        {
            **result.candidate_json(candidate, workspace.study.goal),
            "measured_in": len(rounds),
        }
        for candidate in candidates.collect_candidates(graph, workspace.store, rounds)
        if candidate.recipe in recipes
    ]


def end_data(study_result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without its other candidates."""
    return {k: v for k, v in study_result.items() if k not in UNPUBLISHED}


def failure_data(workspace: Workspace, reason: str) -> FailureData:
    """Return what a failed study was of, and why it failed."""
    return {
        "reason": reason,
        "model": workspace.study.model,
        "hardware": workspace.study.hardware.name,
        "goal": asdict(workspace.study.goal),
    }


def close_feed(studies: Iterable[StudyEvents], feed: Feed, failures: list[str]) -> list[str]:
    """End the events of this process, and return lines for the user.

    failures: what went wrong in this run, a text each. Where something did, studies that have
    stopped without an end are published as failed, but not those that the user stopped.
    """
    if failures and not process.STOP_REQUESTED.is_set():
        for events in studies:
            events.publish_failure(failures[-1])
    return feed.close()
