"""`doit history`: show, export, forget."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.core.metrics import metrics_in
from sintra.results import calibration
from sintra.store import history
from sintra.store.history import HistoryRow
from sintra.store.store import Store
from sintra.study.result_upgrade import parse_result

FORMATS = ("text", "json", "csv")
ALL = "all"
COLUMNS = (
    "made",
    "study",
    "model",
    "hardware",
    "goal",
    "status",
    "winner",
    *metrics_in("history"),
    "evaluations",
    "llm_calls",
    "llm_usd",
)


def show_history(store: Store, format: str, forget: str, calibration: bool) -> None:
    """Print the history, or delete from it. Raises UserError."""
    if format not in FORMATS:
        raise UserError(f"--format={format} isn't known: {' or '.join(FORMATS)}")
    path = store.root / "history.db"
    rows = history.read_results(path)
    if forget:
        forget_study(path, forget, {r["study"] for r in rows})
    elif calibration:
        print_calibration(rows)
    elif format == "text":
        print_rows(rows)
    else:
        print(export_rows([export_row(r) for r in rows], format))


def print_calibration(rows: list[HistoryRow]) -> None:
    """Print how well predictions agreed with what was measured later."""
    print(calibration.calibration_report(calibration.last_results(rows)))


def forget_study(path: Path, study: str, studies: set[str]) -> None:
    """Delete the results of a study, or of all. Raises UserError where there is no such study."""
    if study != ALL and study not in studies:
        raise UserError(f"the history has no study {study!r}: {nearest(study, studies)}")
    count = history.delete_results(path, None if study == ALL else study)
    print(
        f"forgot {count} result{'s' * (count != 1)} and what they taught; files in cache/ and "
        "outputs/ are still there"
    )


def print_rows(rows: list[HistoryRow]) -> None:
    """Print a line for each result, the oldest first."""
    for r in rows:
        print(f"{r['made']}  {r['study']:<44} {r['status']:<12} {winner_name(r) or '-'}")
    if not rows:
        print("no study has ended yet: doit optimize hardware=jetson_nano")


def export_row(row: HistoryRow) -> dict[str, Any]:
    """Return a result with the columns of the export."""
    result = json.loads(row["result"])
    winner = result["winner"] or {"measurements": []}
    numbers = {m["metric"]: m["value"] for m in winner["measurements"]}
    llm = result.get("llm") or {}
    more = {name: numbers.get(name) for name in metrics_in("history")} | {
        "evaluations": result.get("evaluations"),
        "llm_calls": llm.get("calls"),
        "llm_usd": llm.get("usd"),
    }
    named = row | more | {"winner": winner_name(row)}
    return {k: named[k] for k in COLUMNS}


def winner_name(row: HistoryRow) -> str | None:
    """Return the name of a row's winner; rows of earlier versions had one with a digest."""
    if row["winner"] is None:
        return None
    try:
        winner = parse_result(row["result"])["winner"]
    except ValueError:
        return row["winner"]
    return winner["name"] if winner else None


def export_rows(rows: list[dict[str, Any]], format: str) -> str:
    """Return rows as JSON or CSV (RFC 4180)."""
    if format == "json":
        return json.dumps(rows, indent=1)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip()
