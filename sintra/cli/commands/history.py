"""`doit history`: show, export, forget."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.results import calibration
from sintra.store import history

FORMATS = ("text", "json", "csv")
ALL = "all"
PARAMS = (
    {
        "name": "format",
        "long": "format",
        "default": "text",
        "help": "text, json or csv (the latter two for export)",
    },
    {
        "name": "forget",
        "long": "forget",
        "default": "",
        "help": "delete a study's results and what they taught, or `all`",
    },
    {
        "name": "calibration",
        "long": "calibration",
        "type": bool,
        "default": False,
        "help": "how well what was foreseen came true",
    },
)
COLUMNS = (
    "made",
    "study",
    "model",
    "hardware",
    "goal",
    "status",
    "winner",
    "size_bytes",
    "kld_mean",
    "evaluations",
    "llm_calls",
    "llm_usd",
)


def show(path: Path, format: str, forget: str, calibration: bool) -> None:
    """Print the history, or delete from it. Raises UserError."""
    if format not in FORMATS:
        raise UserError(f"--format={format} isn't known: {' or '.join(FORMATS)}")
    rows = history.rows(path)
    if forget:
        erase(path, forget, {r["study"] for r in rows})
    elif calibration:
        told(rows)
    elif format == "text":
        listed(rows)
    else:
        print(exported([flat(r) for r in rows], format))


def told(rows: list[dict[str, Any]]) -> None:
    """How well what was foreseen came true."""
    print(calibration.calibration_report(calibration.last_results(rows)))


def erase(path: Path, study: str, known: set[str]) -> None:
    """Delete. Raises UserError where there is no such study."""
    if study != ALL and study not in known:
        raise UserError(f"the history has no study {study!r}: {nearest(study, known)}")
    count = history.forget(path, None if study == ALL else study)
    print(
        f"forgot {count} result{'s' * (count != 1)} and what they taught; files in cache/ and "
        "outputs/ are still there"
    )


def listed(rows: list[dict[str, Any]]) -> None:
    """A line for each."""
    for r in rows:
        print(f"{r['made']}  {r['study']:<44} {r['status']:<10} {r['winner'] or '-'}")
    if not rows:
        print("no study has ended yet: doit optimize hardware=jetson_nano")


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the export."""
    result = json.loads(row["result"])
    winner = result["winner"] or {"measurements": []}
    numbers = {m["metric"]: m["value"] for m in winner["measurements"]}
    llm = result.get("llm") or {}
    more = {
        "size_bytes": numbers.get("size_bytes"),
        "kld_mean": numbers.get("kld_mean"),
        "evaluations": result.get("evaluations"),
        "llm_calls": llm.get("calls"),
        "llm_usd": llm.get("usd"),
    }
    return {k: (row | more)[k] for k in COLUMNS}


def exported(rows: list[dict[str, Any]], format: str) -> str:
    """As JSON or CSV (RFC 4180)."""
    if format == "json":
        return json.dumps(rows, indent=1)
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip()
