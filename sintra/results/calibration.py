"""How well what was foreseen came true: the intervals of the model of the damage, and a language
model's own word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sintra.planning.state import ADVISER
from sintra.store.history import HistoryRow

Row = dict[str, Any]


def report(results: Iterable[Row]) -> str:
    """Two lines, from result.json of the last run of each study."""
    rows = [c for r in results for c in r["candidates"]]
    return f"{intervals(rows)}\n{stated(results)}"


def intervals(rows: Iterable[Row]) -> str:
    """How often a mix's KLD on the search text lay in the 90 % interval in which it was expected."""
    held = [
        p["kld_mean_low"] <= value <= p["kld_mean_high"]
        for row in rows
        if "kld_mean_low" in (p := row["predicted"]) and (value := kld(row)) is not None
    ]
    if not held:
        return "90 % intervals of the model of the damage: nothing foreseen has been measured yet"
    return (
        f"90 % intervals of the model of the damage: {sum(held)} of {len(held)} measured inside "
        f"({sum(held) / len(held):.0%})"
    )


def kld(row: Row) -> float | None:
    """A candidate's mean KLD on the search text."""
    return next((m["value"] for m in row["measurements"] if m["metric"] == "kld_mean_search"), None)


def stated(results: Iterable[Row]) -> str:
    """How sure the language model said it was, beside how often its variant was better than all
    that was known before it, and the Brier score (the mean squared difference: 0 is perfect, 0.25
    is what always saying 50 % gets).
    """
    pairs = [p for result in results for p in outcomes(result)]
    if not pairs:
        return "the language model's own word: none of its advice has been measured yet"
    said = sum(s for s, _ in pairs) / len(pairs)
    better = sum(b for _, b in pairs)
    brier = sum((s - b) ** 2 for s, b in pairs) / len(pairs)
    word = (
        f"{said:.0%} sure on average, {better} of {len(pairs)} better than before, Brier "
        f"{brier:.2f}"
    )
    return f"the language model's own word: {word}"


def outcomes(result: Row) -> list[tuple[float, bool]]:
    """(how sure, whether better than every candidate of earlier rounds) of each variant by a
    language model's advice.
    """
    order = result["candidates"]  # the best first
    return [
        (
            row["stated"],
            all(place < other for other, c in enumerate(order) if c["round"] < row["round"]),
        )
        for place, row in enumerate(order)
        if row["author"] == ADVISER and row.get("stated") is not None
    ]


def last_of_each(rows: Iterable[HistoryRow]) -> list[Row]:
    """The last result of each study, from rows of the history; those from before this was recorded
    are left out.
    """
    last = {r["study"]: r for r in rows}
    found = [json.loads(r["result"]) for r in last.values()]
    return [r for r in found if all("round" in c for c in r["candidates"])]
