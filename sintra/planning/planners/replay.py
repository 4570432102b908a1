"""Build exactly what an earlier study built: a recipe.yaml, a result.json, or a rounds.json, which
has every step of it. Of a GGUF the tensor types are taken over, whoever made it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config.quoting import is_file, user_path
from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, Rounding
from sintra.core.text import printable_line
from sintra.core.types import Proposal
from sintra.formats.gguf.imported import is_gguf, read_types
from sintra.planning.state import PlannerState

ROUNDINGS: tuple[Rounding, ...] = ("nearest", "compensated")


@dataclass(frozen=True)
class Replay:
    """What a file says was built."""

    rounds: tuple[tuple[Proposal, ...], ...] = ()  # of a rounds.json
    recipes: tuple[Recipe, ...] = ()  # of any other file


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round of a rounds.json, or all recipes of another file at once.

    A GGUF is one recipe: its types, with the importance matrix and planner.rounding. The authors
    and reasons of a rounds.json are kept. No planner and no language model is asked.
    Raises UserError.
    """
    path = user_path(study.planner.replay)
    if not is_file(path):
        raise UserError(
            f"planner.replay={str(path)!r} is not a file: give a recipe.yaml, rounds.json or "
            "result.json from outputs/, or any GGUF for its types"
        )
    if is_gguf(path):
        return [] if state.results.candidates else [propose_types(path, study, state)]
    replay = read_replay(path)
    for proposals in replay.rounds:
        if any((p.recipe, p.level) not in state.results.attempts for p in proposals):
            return list(proposals)
    if state.results.candidates:
        return []
    return [Proposal(r, f"replayed from {path.name}", "replay") for r in replay.recipes]


def propose_types(path: Path, study: Study, state: PlannerState) -> Proposal:
    """Propose the tensor types of a GGUF. Raises UserError where it can't be of this model."""
    rounding = next((r for r in ROUNDINGS if r == study.planner.rounding), None)
    if rounding is None:
        raise UserError(
            f"planner.rounding={study.planner.rounding} isn't known: use {' or '.join(ROUNDINGS)}"
        )
    types = read_types(path)
    if state.model.columns and not set(types.columns) & set(state.model.columns):
        rows = ", ".join(map(str, sorted(types.columns)))
        own = ", ".join(map(str, sorted(state.model.columns)))
        raise UserError(
            f"{path.name} is of another model than {study.model}: it has rows of {rows} weights, "
            f"not {own}"
        )
    recipe = Recipe(types.type, True, (), types.tensors, rounding)
    return Proposal(recipe, f"the types of {printable_line(path.name, 200)}", "replay")


def read_replay(path: Path) -> Replay:
    """Read the rounds or the recipes of a file. Raises UserError where it holds neither."""
    try:
        data: Any = json.loads(path.read_text()) if path.suffix == ".json" else _read_yaml(path)
        if isinstance(data, list):
            return Replay(
                rounds=tuple(tuple(read_proposal(p) for p in row["proposals"]) for row in data)
            )
        rows = data["recipes"] if "recipes" in data else [c["recipe"] for c in data["candidates"]]
        return Replay(recipes=tuple(Recipe.of(row) for row in rows))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError):
        raise UserError(
            f"{path} holds no recipes: expected a recipe.yaml, rounds.json or result.json from "
            "outputs/"
        ) from None


def read_proposal(row: dict[str, Any]) -> Proposal:
    """Return a proposal of rounds.json, where each has the name that people read beside it."""
    return Proposal.of({key: value for key, value in row.items() if key != "name"})


def _read_yaml(path: Path) -> Any:
    import yaml  # not on the no-op path

    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
