"""Build exactly what an earlier study built: a recipe.yaml, a result.json, or a rounds.json, which
has every step of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.planning.state import History


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round of a rounds.json, with its authors and reasons; of other files all recipes at
    once. No planner and no language model is asked. Raises UserError.
    """
    path = Path(study.planner.replay)
    if not path.is_file():
        raise UserError(
            f"planner.replay={str(path)!r} is no file: give a recipe.yaml, rounds.json or "
            "result.json from outputs/"
        )
    data = loaded(path)
    if isinstance(data, list):
        rounds = [[Proposal.of(p) for p in r["proposals"]] for r in data]
        return next(
            (r for r in rounds if any((p.recipe, p.level) not in history.tried for p in r)), []
        )
    if history.candidates:
        return []
    return [Proposal(r, f"replayed from {path.name}", "replay") for r in data["recipes"]]


def loaded(path: Path) -> Any:
    """A list of rounds, or {"recipes": [...]}. Raises UserError where the file holds neither."""
    try:
        data: Any = json.loads(path.read_text()) if path.suffix == ".json" else _yaml(path)
        if isinstance(data, list):
            [Proposal.of(p) for r in data for p in r["proposals"]]
            return data
        rows = data["recipes"] if "recipes" in data else [c["recipe"] for c in data["candidates"]]
        return {"recipes": [Recipe.of(r) for r in rows]}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError):
        raise UserError(
            f"{path} holds no recipes: expected a recipe.yaml, rounds.json or result.json from "
            "outputs/"
        ) from None


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
