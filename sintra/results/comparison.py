"""Many results in one table, a Pareto plot, and which model to take."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sintra.results.recommend import recommend
from sintra.store.files import write_atomic
from sintra.study.json_types import CellJson
from sintra.study.sweep import sweep_folder, swept_options

Row = dict[str, Any]
"""The options that were swept, then study, status, winner, COLUMNS and the scores at tasks."""

COLUMNS = {
    "size_bytes": ("MB", 1e6, 2),
    "kld_mean": ("KLD", 1, 5),
    "bits_per_byte": ("bits/byte", 1, 4),
    "device_tg_tps": ("tok/s*", 1, 1),
    "device_ram_bytes": ("RAM MB*", 1e6, 0),
}


def write_comparison(root: Path, raw: list[str], results: list[CellJson], command: str) -> None:
    """Print the table, write the sweep's folder, and for a comparison say which model to take."""
    options = swept_options(root, raw) or ["model"]
    rows = [result_row(r, options) for r in results]
    recommended = recommend(results) if command == "compare" else []
    out = sweep_folder(root, raw, command)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(
        out / f"{command}.json",
        json.dumps({"options": raw, "rows": rows, "recommended": recommended}, indent=1) + "\n",
    )
    write_atomic(out / f"{command}.csv", rows_to_csv(rows))
    print(comparison_table(rows, options))
    for line in recommended:
        print(line)
    passed = sum(r["status"] == "pass" for r in rows)
    print(f"{write_plot(rows, options, out)}; {passed} of {len(rows)} pass")


def result_row(result: CellJson, options: list[str]) -> Row:
    """Return a row: the options that were swept, the verdict, and the winner's numbers."""
    overrides = dict(o.split("=", 1) for o in result["overrides"])
    winner = result["winner"]
    numbers = {m["metric"]: m["value"] for m in winner["measurements"]} if winner else {}
    scores = {k: v for k, v in numbers.items() if k.startswith("task:") and k.endswith(":acc")}
    return (
        {option: overrides.get(option, "") for option in options}
        | {
            "study": result["study"],
            "status": result["status"],
            "winner": winner["name"] if winner else None,
        }
        | {metric: numbers.get(metric) for metric in COLUMNS}
        | scores
    )


def comparison_table(rows: list[Row], options: list[str]) -> str:
    """Return the rows in columns as wide as need be: words to the left, numbers to the right."""
    tasks = sorted({k for r in rows for k in r if k.startswith("task:")})
    words = [*options, "status", "variant"]
    head = [*words, *(label for label, _, _ in COLUMNS.values()), *tasks]
    lines = [head, *(row_cells(r, options, tasks) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def aligned(line: list[str]) -> str:
        cells = [
            cell.ljust(width) if i < len(words) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines)) + "\n* estimated for the device"


def row_cells(row: Row, options: list[str], tasks: list[str]) -> list[str]:
    """Return the cells of a row of the table."""
    numbers = [
        "-" if row[metric] is None else f"{row[metric] / scale:.{digits}f}"
        for metric, (_, scale, digits) in COLUMNS.items()
    ]
    scores = ["-" if row.get(task) is None else f"{row[task]:.3f}" for task in tasks]
    return [*(str(row[o]) for o in options), row["status"], row["winner"] or "-", *numbers, *scores]


def rows_to_csv(rows: list[Row]) -> str:
    """Return the rows as CSV (RFC 4180)."""
    out = io.StringIO()
    names = list(dict.fromkeys(k for r in rows for k in r))
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_plot(rows: list[Row], options: list[str], out: Path) -> str:
    """Write the Pareto plot; return where it is, or which extra draws it."""
    from sintra.results.pareto import pareto_page  # not on the no-op path

    page = pareto_page([r for r in rows if r["kld_mean"] is not None], options)
    if page is None:
        return (
            f"numbers in {out.parent.name}/{out.name} (the plot needs `pip install 'sintra[plot]'`)"
        )
    write_atomic(out / "pareto.html", page)
    return f"numbers and a plot in {out.parent.name}/{out.name}"
