"""A study in outputs/, opened again: its result, its winner and the graph that made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sintra.build.graph import Graph
from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, Failure
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.results.validation import result_folder
from sintra.store.files import read_regular
from sintra.store.store import Store
from sintra.study import round_files
from sintra.study.json_types import CandidateJson, ResultJson
from sintra.study.result_upgrade import parse_result
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace, open_workspace


@dataclass(frozen=True)
class FinishedStudy:
    """A study with a winner, and what made it."""

    folder: Path  # outputs/<study>, without links
    result: ResultJson
    workspace: Workspace  # of the recorded options

    @property
    def winner(self) -> CandidateJson:
        """The winner's row of result.json."""
        winner = self.result["winner"]
        assert winner is not None
        return winner

    @property
    def recipe(self) -> Recipe:
        """The winner's recipe."""
        return Recipe.of(self.winner["recipe"])

    @property
    def variant(self) -> str:
        """The winner's name."""
        return self.winner["name"]

    @property
    def store(self) -> Store:
        """The study's cache."""
        return self.workspace.store

    @cached_property
    def graph(self) -> Graph:
        """The study's graph."""
        return self.workspace.graph()

    @cached_property
    def rounds(self) -> list[Round]:
        """The recorded rounds; empty once the cache doesn't have them any more."""
        return round_files.read_rounds(self.workspace)

    def build_artifact(self, step: Step, say: Callable[[str], None]) -> Artifact:
        """Return a step's artifact, built with everything above it where the store doesn't have it.

        Raises UserError for a failure.
        """
        return build_artifact(self.workspace, step, say)


def build_artifact(workspace: Workspace, step: Step, say: Callable[[str], None]) -> Artifact:
    """Return a step's artifact, built with everything above it where the store doesn't have it.

    say: takes a line for each step that is built. Raises UserError for a failure.
    """
    store = workspace.store
    for needed in step.all():
        if needed.outcome(store) is None:
            say(f"build   {needed.name}")
            run_step(needed, store, workspace.policy, say)
    outcome = step.outcome(store)
    if isinstance(outcome, Failure):
        raise UserError(f"{step.name}: {outcome.message}")
    assert isinstance(outcome, Artifact)
    return outcome


def open_finished(root: Path, study: str = "latest") -> FinishedStudy:
    """Open a folder of outputs/. Raises UserError where it has no winner, or its model is gone."""
    folder = result_folder(root, study)
    result = parse_result(read_regular(folder / "result.json"))
    if not result["winner"]:
        raise UserError(f"outputs/{study} has no winner: {result['reason'] or result['status']}")
    manifest = json.loads(read_regular(folder / "manifest.json"))
    workspace = open_workspace(root, manifest["overrides"])
    if workspace.pinned() is None:
        raise UserError(
            f"the model of outputs/{study} isn't pinned in {workspace.config.store.path}: run "
            "its `doit optimize` again"
        )
    return FinishedStudy(folder.resolve(), result, workspace)
