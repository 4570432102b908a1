"""The dashboard's words, tables and plots: plain values in, HTML out."""

from __future__ import annotations

import html
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sintra.core.metrics import BY_NAME, metrics_in
from sintra.results.dashboard.studies import Studies
from sintra.results.pages import charts, flow
from sintra.results.pages.page import HERE, render
from sintra.results.pages.report import facts, front, point, verdict
from sintra.results.pages.report_data import command
from sintra.results.pages.words import (
    aim_said,
    bytes_said,
    limit_said,
    named,
    plain,
    said,
    with_error,
)

Row = dict[str, Any]
SHOWN = 20
escaped = html.escape


@lru_cache
def style() -> str:
    """The style of reports and pages, and what the dashboard has beside it."""
    return "\n".join(
        (HERE / name).read_text() for name in ("page.css", "report.css", "dashboard.css")
    )


def listing(studies: Studies) -> str:
    """The table of studies."""
    return render(
        "studies.html",
        rows=studies.listing(),
        bytes_said=bytes_said,
        plain=plain,
        with_error=with_error,
    )


def part(name: str, now: Row) -> str:
    """A part of a study's page."""
    result, progress = now["result"], now["progress"]
    return render(
        "live.html",
        part=name,
        s=now,
        shown=SHOWN,
        plain=plain,
        verdict=sentence(now) if name == "head" else "",
        facts=facts({"result": result, "original_bytes": None})
        if result and name == "head"
        else [],
        flow=flow.placed(progress)
        if progress and progress["total"] and name == "progress"
        else None,
        plot=plot(now) if name == "candidates" else None,
    )


def sentence(now: Row) -> str:
    """What the study is about, or what came of it."""
    if now["result"] and now["state"] not in ("running", "stopped"):
        return verdict({"result": now["result"]})
    goal = now["goal_conf"]
    if goal is None:
        return (
            "Its options can't be opened any more: a model, a text or an option is no longer what "
            "it was."
        )
    limits = "; ".join(limit_said(vars(c)) for c in goal.constraints)
    aim = aim_said({"minimise" if goal.sense > 0 else "maximise": goal.optimise})
    return f"Wanted: {aim} with {limits}." if limits else f"Wanted: {aim}."


def plot(now: Row) -> dict[str, str] | None:
    """Quality against size, of what is measured so far."""
    points = tuple(tuple(point(r).items()) for r in now["rows"] if r["kld"] and r["bytes"])
    goal = now["goal_conf"]
    limits = {c.metric: c.limit for c in goal.constraints} if goal else {}
    near = tuple(
        (k, limits[m] / s)
        for k, m, s in (("KLD", "kld_mean", 1), ("MB", "size_bytes", 1e6))
        if m in limits
    )
    return drawn(points, near) if points and charts.available() else None


@lru_cache(maxsize=64)
def drawn(points: tuple[Any, ...], limits: tuple[Any, ...]) -> dict[str, str]:
    """A plot, drawn once."""
    rows = [dict(p) for p in points]
    return charts.quality(rows, front(rows), dict(limits))


def compared(rows: list[Row]) -> str:
    """Studies side by side, by letters that the plot has too."""
    columns = [r | {"letter": f"{ascii_uppercase[i % 26]}"} for i, r in enumerate(rows)]
    metrics = [m for m in metrics_in("dashboard") if any(m in c["values"] for c in columns)]
    best: dict[str, set[str]] = {}
    for m in metrics:
        values = {c["name"]: c["values"][m] for c in columns if m in c["values"]}
        top = min(values.values(), key=lambda v: BY_NAME[m].sense * v)
        best[m] = (
            {n for n, v in values.items() if v == top} if len(set(values.values())) > 1 else set()
        )
    return render(
        "compare.html",
        columns=columns,
        metrics=metrics,
        first=best,
        named=named,
        said=said,
        plot=beside(columns),
    )


def beside(columns: list[Row]) -> dict[str, str] | None:
    """The results in one plot."""
    points = []
    for c in columns:
        values, error = c["values"], c["kld_error"] or 0.0
        if values.get("kld_mean") and values.get("size_bytes"):
            kld = values["kld_mean"]
            points.append(
                {
                    "name": c["letter"],
                    "MB": values["size_bytes"] / 1e6,
                    "KLD": kld,
                    "kind": "stock",
                    "decided": True,
                    "low": max(kld - 2 * error, kld / 4),
                    "high": kld + 2 * error,
                    "words": c["name"],
                }
            )
    if len(points) < 2 or not charts.available():
        return None
    return drawn(tuple(tuple(p.items()) for p in points), ())


def foreseen(found: Row) -> str:
    """The dry run as a table."""
    times = [r["seconds"] for r in found["steps"] if r["seconds"] is not None]
    build = sum(r["state"] == "build" for r in found["steps"])
    return render(
        "foreseen.html",
        steps=found["steps"],
        build=build,
        seconds=sum(times),
        stop=found["stop"],
        bytes_said=bytes_said,
    )


def typed(root: Path, given: list[str]) -> str:
    """The command line that does the same."""
    return command(root, given)
