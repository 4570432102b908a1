"""Build exactly what a recipe.yaml or a result.json of an earlier study names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sintra.errors import UserError
from sintra.planning import History
from sintra.types import Proposal, Recipe, Study


def propose(study: Study, history: History) -> list[Proposal]:
    """All recipes of planner.replay at once; nothing after that."""
    path = Path(study.planner_options["replay"])
    if not path.is_file():
        raise UserError(f"planner.replay={str(path)!r} is no file: give a recipe.yaml or result.json from outputs/")
    if history.candidates:
        return []
    return [Proposal(r, f"replayed from {path.name}", "replay") for r in recipes(path)]


def recipes(path: Path) -> list[Recipe]:
    """The recipes of a file. Raises UserError where there are none."""
    try:
        data: Any = json.loads(path.read_text()) if path.suffix == ".json" else _yaml(path)
        rows = data["recipes"] if "recipes" in data else [c["recipe"] for c in data["candidates"]]
        return [Recipe.of(r) for r in rows]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no recipes: expected a recipe.yaml or result.json from outputs/") from None


def _yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())
