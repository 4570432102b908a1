"""Read a result.json of an earlier version as one of today's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from sintra.core.recipe import Recipe, unique_names, variant_name
from sintra.core.types import upgrade_status
from sintra.study.json_types import ResultJson, RoundJson

RESULT_SCHEMA = 2  # version 1 had no names of variants and other words


def parse_result(data: str | bytes) -> ResultJson:
    """Return the result in a result.json. Raises ValueError where it is not one."""
    try:
        return upgrade_result(json.loads(data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a result: {type(error).__name__}: {error}") from None


def upgrade_result(result: Any) -> ResultJson:
    """Return a result of any version as one of today's. Raises KeyError, TypeError,
    AttributeError, ValueError.
    """
    if result.get("schema") != 1:
        return cast(ResultJson, result)
    rows = result["candidates"] + ([result["winner"]] if result["winner"] else [])
    recipes = [Recipe.of(row["recipe"]) for row in rows]
    names = unique_names({r: old_name(r, row) for r, row in zip(recipes, rows, strict=True)})
    named = [upgrade_row(row, names[recipe]) for recipe, row in zip(recipes, rows, strict=True)]
    winner = named.pop() if result["winner"] else None
    upgraded = {
        **result,
        "schema": RESULT_SCHEMA,
        "status": upgrade_status(result["status"]),
        "reason": upgrade_reason(result["reason"]),
        "candidates": named,
        "winner": winner,
    }
    if "formats" in result:
        rows = ({**row, "status": upgrade_status(row["status"])} for row in result["formats"])
        upgraded["formats"] = list(rows)
    return cast(ResultJson, upgraded)


def upgrade_row(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a candidate with its name, and today's word for its verdict."""
    verdict = {**row["verdict"], "status": upgrade_status(row["verdict"]["status"])}
    return {"name": name, "probe": "", **row, "verdict": verdict}


def upgrade_reason(reason: str) -> str:
    """Return why a study ended in today's words."""
    old = "infeasible: "
    return f"impossible: {reason.removeprefix(old)}" if reason.startswith(old) else reason


def name_proposals(rounds: Iterable[RoundJson], result: ResultJson) -> None:
    """Give each proposal of rounds.json the name of its variant, where an earlier version wrote it.

    Raises KeyError, TypeError, ValueError.
    """
    names = {Recipe.of(row["recipe"]): row["name"] for row in result["candidates"]}
    for proposal in (p for r in rounds for p in r["proposals"]):
        if "name" not in proposal:
            recipe = Recipe.of(proposal["recipe"])
            proposal["name"] = names.get(recipe) or variant_name(recipe)


def old_name(recipe: Recipe, row: Mapping[str, Any]) -> str:
    """Return the name of a candidate whose result had none: a mix is named by its file's size."""
    name = variant_name(recipe)
    if not name.startswith("mix") or not row.get("artifact"):
        return name
    return name.replace("mix", f"mix of {row['artifact']['bytes'] / 1e6:.2f} MB", 1)
