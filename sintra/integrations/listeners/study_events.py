"""A study as events for its listeners: what is wanted, each round with what was measured in it, the
end.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from sintra.build.console import FAILURES
from sintra.build.graph import Graph
from sintra.core import process
from sintra.core.recipe import Recipe
from sintra.integrations.listeners.feed import FEED, Teller
from sintra.results import outputs, result
from sintra.study import candidates, round_files
from sintra.study.json_types import ResultJson
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

LEVELS = ("search", "report")


class Story:
    """One study's, told as it goes. Without listeners it does nothing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.teller = Teller(
            workspace.conf, workspace.study.id, workspace.root, workspace.store.root
        )

    def so_far(self, graph: Graph, known: list[Round]) -> None:
        """Every round that is over and hasn't been told. known: those, all measured."""
        first = self.teller.heard.known["rounds"]
        if not self.teller.listeners or first >= len(known):
            return
        self.teller.begin(wanted(self.workspace))
        for number in range(first + 1, len(known) + 1):
            given = known[number - 1]
            rows = measured(self.workspace, graph, known[:number])
            self.teller.round(number, spoken(given), rows, self.over(number))

    def over(self, number: int) -> float:
        """When a round was over: when the next was written."""
        path = round_files.round_path(self.workspace, number + 1)
        return path.stat().st_mtime if path.exists() else time.time()

    def end(self, graph: Graph, known: list[Round], made: ResultJson) -> None:
        """The result, unless the listeners know it."""
        if not self.teller.listeners:
            return
        if digest := self.teller.news(outputs.lasting_part(made)):
            self.so_far(graph, known)
            self.teller.begin(wanted(self.workspace))
            self.teller.end(ended(made), digest)
        FEED.ended.add(self.workspace.study.id)


def wanted(workspace: Workspace) -> dict[str, Any]:
    """What a study is asked for."""
    study = workspace.study
    goal: dict[str, Any] = {"name": study.goal.name, "optimise": study.goal.optimise}
    goal |= {c.option.removeprefix("goal."): c.limit for c in study.goal.constraints}
    about = {
        "model": study.model,
        "hardware": study.hardware.name,
        "formats": list(study.formats),
        "seed": study.seed,
    }
    return about | {
        "goal": goal,
        "planner": {"name": study.planner, **study.planner_options},
        "probe": study.probe,
    }


def spoken(given: Round) -> dict[str, Any]:
    """A round without the bulk of its proposals."""
    told = [
        {"name": p.recipe.name, "level": p.level, "author": p.author, "why": p.why}
        for p in given.proposals
    ]
    return {"proposals": told, "stop": given.stop}


def measured(workspace: Workspace, graph: Graph, known: list[Round]) -> list[dict[str, Any]]:
    """The variants that were measured in the last of these rounds, as rows of result.json with name
    and round.
    """
    last = {p.recipe for p in known[-1].proposals if p.level in LEVELS}
    found = [
        c for c in candidates.collect_candidates(graph, workspace.store, known) if c.recipe in last
    ]
    return [
        result.candidate_json(c, workspace.study.goal)
        | {"name": c.recipe.name, "measured_in": len(known)}
        for c in found
    ]


def ended(made: ResultJson) -> dict[str, Any]:
    """A result without its other candidates."""
    winner = made["winner"] and made["winner"] | {"name": Recipe.of(made["winner"]["recipe"]).name}
    return {k: v for k, v in made.items() if k not in ("candidates", "learned")} | {
        "winner": winner
    }


def close(stories: list[Story]) -> list[str]:
    """The end of the process: studies that have stopped without an end are told as failed. Returns
    lines for the user.
    """
    for story in stories:
        if story.workspace.study.id not in FEED.ended and FAILURES and not process.TOLD.is_set():
            if story.teller.listeners:
                story.teller.begin(wanted(story.workspace))
            story.teller.tell("failed", {"reason": FAILURES[-1]} | about(story.workspace))
    return FEED.close()


def about(workspace: Workspace) -> dict[str, Any]:
    """What a failed study was of."""
    return {
        "model": workspace.study.model,
        "hardware": workspace.study.hardware.name,
        "goal": asdict(workspace.study.goal),
    }
