"""Many results in one table, a Pareto plot, and which model to take."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from sintra.core.metrics import METRICS
from sintra.core.recipe import Recipe, variant_name
from sintra.results.recommend import recommend
from sintra.store.files import write_atomic
from sintra.study.sweep import folder, swept

Result = dict[str, Any]
COLUMNS = {m.name: m.column for m in METRICS if m.column}


def tell(root: Path, raw: list[str], results: list[Result], command: str) -> None:
    """Print the table, write the sweep's folder, and for a comparison say which model to take."""
    keys = swept(raw) or ["model"]
    rows = [flat(r, keys) for r in results]
    out = folder(root, raw, command)
    said = recommend(results) if command == "compare" else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(
        out / f"{command}.json",
        json.dumps({"options": raw, "rows": rows, "recommended": said}, indent=1) + "\n",
    )
    write_atomic(out / f"{command}.csv", as_csv(rows))
    print(table(rows, keys))
    for line in said:
        print(line)
    print(
        f"{plotted(rows, keys, out)}; {sum(r['status'] == 'met' for r in rows)} of {len(rows)} met"
    )


def flat(result: Result, keys: list[str]) -> dict[str, Any]:
    """A row: the options that were swept, the verdict, and the winner's numbers."""
    given = dict(o.split("=", 1) for o in result["overrides"])
    winner = result["winner"]
    numbers = {m["metric"]: m["value"] for m in winner["measurements"]} if winner else {}
    tasks = {k: v for k, v in numbers.items() if k.startswith("task:") and k.endswith(":acc")}
    return (
        {k: given.get(k, "") for k in keys}
        | {
            "study": result["study"],
            "status": result["status"],
            "winner": variant_name(Recipe.of(winner["recipe"])) if winner else None,
        }
        | {k: numbers.get(k) for k in COLUMNS}
        | tasks
    )


def table(rows: list[dict[str, Any]], keys: list[str]) -> str:
    """In columns as wide as need be."""
    tasks = sorted({k for r in rows for k in r if k.startswith("task:")})
    heads = [*keys, "status", "variant", *(c.head for c in COLUMNS.values()), *tasks]
    lines = [heads]
    for r in rows:
        numbers = [
            "-" if r[k] is None else f"{r[k] / c.scale:.{c.digits}f}" for k, c in COLUMNS.items()
        ]
        scores = ["-" if r.get(t) is None else f"{r[t]:.3f}" for t in tasks]
        lines.append(
            [*(str(r[k]) for k in keys), r["status"], r["winner"] or "-", *numbers, *scores]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [len(keys) + 2 > i for i in range(len(heads))]
    shown = [
        "  ".join(
            c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, text, strict=True)
        )
        for line in lines
    ]
    return "\n".join(s.rstrip() for s in shown) + "\n* estimated for the device"


def as_csv(rows: list[dict[str, Any]]) -> str:
    """RFC 4180."""
    out = io.StringIO()
    names = list(dict.fromkeys(k for r in rows for k in r))
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def plotted(rows: list[dict[str, Any]], keys: list[str], out: Path) -> str:
    """Where the Pareto plot is, or which extra draws it."""
    from sintra.results.pareto import page

    drawn = page([r for r in rows if r["kld_mean"] is not None], keys)
    if drawn is None:
        return (
            f"numbers in {out.parent.name}/{out.name} (the plot needs `pip install 'sintra[plot]'`)"
        )
    write_atomic(out / "pareto.html", drawn)
    return f"numbers and a plot in {out.parent.name}/{out.name}"
