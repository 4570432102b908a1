"""A study that lies in outputs/, opened again: its result, its winner and the graph that made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.build.graph import Graph
from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.errors import UserError, nearest
from sintra.core.recipe import Recipe
from sintra.core.types import Artifact, Failure
from sintra.store.store import Store
from sintra.study import round_files
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace, open_workspace


@dataclass
class Delivered:
    """A result with what is around it. study: of the recorded configuration."""

    folder: Path
    result: dict[str, Any]
    workspace: Workspace

    @property
    def recipe(self) -> Recipe:
        """The winner's."""
        return Recipe.of(self.result["winner"]["recipe"])

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
        """What was proposed; empty once the cache has forgotten it."""
        return round_files.recorded(self.workspace)

    def made(self, step: Step, say: Any) -> Artifact:
        """A step's artifact, built with everything above it where the store doesn't have it. Raises
        UserError for a failure.
        """
        for needed in step.all():
            if needed.outcome(self.store) is None:
                say(f"build   {needed.name}")
                run_step(needed, self.store, self.workspace.policy, say)
        found = step.outcome(self.store)
        if isinstance(found, Failure):
            raise UserError(f"{step.name}: {found.message}")
        assert isinstance(found, Artifact)
        return found


def delivered(root: Path, study: str = "latest") -> Delivered:
    """Open a folder of outputs/. Raises UserError where it holds no winner, or its model is gone."""
    folder = root / "outputs" / study
    if not (folder / "result.json").is_file():
        known = sorted(
            p.name for p in (root / "outputs").glob("*") if (p / "result.json").is_file()
        )
        hint = f": {nearest(study, known)}" if known else ": run `doit optimize hardware=...` first"
        raise UserError(f"outputs/{study} holds no result{hint}")
    result = json.loads((folder / "result.json").read_text())
    if not result["winner"]:
        raise UserError(f"outputs/{study} has no winner: {result['reason'] or result['status']}")
    workspace = open_workspace(
        root, json.loads((folder / "manifest.json").read_text())["overrides"]
    )
    if workspace.pinned() is None:
        raise UserError(
            f"the model of outputs/{study} isn't pinned in {workspace.conf['store']['path']}: run its "
            "`doit optimize` again"
        )
    return Delivered(folder.resolve(), result, workspace)
