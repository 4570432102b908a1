"""Render the dashboard's tables and plots: plain values in, HTML out."""

from __future__ import annotations

from functools import lru_cache
from string import ascii_uppercase
from typing import Literal

from sintra.core.metrics import BY_NAME, metrics_in
from sintra.results.dashboard.runs import DryRun
from sintra.results.dashboard.studies import StudyRow, StudySnapshot
from sintra.results.pages import charts
from sintra.results.pages.candidate_rows import (
    MB,
    PlotLimits,
    PlotPoint,
    error_bar,
    plot_limits,
    plot_points,
)
from sintra.results.pages.charts import Plot
from sintra.results.pages.flow import draw_flow
from sintra.results.pages.page import TEMPLATE_FOLDER, render_template
from sintra.results.pages.summary import key_figures, verdict_sentence
from sintra.results.pages.words import (
    describe_aim,
    describe_limit,
    format_bytes,
    format_number,
    format_value,
    format_with_error,
    metric_label,
)

Part = Literal["head", "progress", "candidates", "log"]
TABLE_ROWS = 20  # candidates in the table


@lru_cache
def style_sheet() -> str:
    """Return the style of reports and pages, and the dashboard's own."""
    return "\n".join(
        (TEMPLATE_FOLDER / name).read_text() for name in ("page.css", "report.css", "dashboard.css")
    )


def render_studies(rows: list[StudyRow]) -> str:
    """Return the table of studies."""
    return render_template(
        "studies.html",
        rows=rows,
        format_bytes=format_bytes,
        format_number=format_number,
        format_with_error=format_with_error,
    )


def render_part(part: Part, study: StudySnapshot) -> str:
    """Return a part of a study's page; "" where it has nothing to show."""
    head, progress = part == "head", study.progress
    flowing = part == "progress" and progress is not None and progress.total
    return render_template(
        "live.html",
        part=part,
        s=study,
        row_limit=TABLE_ROWS,
        format_number=format_number,
        verdict=study_sentence(study) if head else "",
        facts=key_figures(study.result, None) if study.result and head else [],
        flow=draw_flow(progress.stages, progress.edges) if progress and flowing else None,
        plot=candidates_plot(study) if part == "candidates" else None,
    )


def study_sentence(study: StudySnapshot) -> str:
    """Return what the study is about, or the verdict of one that has ended."""
    if study.result and study.row.state not in ("running", "stopped"):
        return verdict_sentence(study.result)
    if study.goal is None:
        return (
            "Its options can't be opened any more: a model, a text or an option is no longer what "
            "it was."
        )
    limits = "; ".join(describe_limit(vars(limit)) for limit in study.goal.constraints)
    sense = "minimise" if study.goal.sense > 0 else "maximise"
    aim = describe_aim({sense: study.goal.optimise})
    return f"Wanted: {aim} with {limits}." if limits else f"Wanted: {aim}."


def candidates_plot(study: StudySnapshot) -> Plot | None:
    """Draw quality against size of what is measured so far; None where there is nothing to draw."""
    points = tuple(plot_points(study.candidates))
    limits = {c.metric: c.limit for c in study.goal.constraints} if study.goal else {}
    return cached_plot(points, plot_limits(limits)) if points else None


def cached_plot(points: tuple[PlotPoint, ...], limits: PlotLimits) -> Plot | None:
    """Draw quality against size, each plot once; None without the extra."""
    return _drawn_plot(points, limits) if charts.plots_available() else None


@lru_cache(maxsize=64)
def _drawn_plot(points: tuple[PlotPoint, ...], limits: PlotLimits) -> Plot:
    return charts.draw_quality(list(points), limits)


def render_comparison(rows: list[StudyRow]) -> str:
    """Return studies side by side, by letters that the plot has too."""
    columns = [(ascii_uppercase[i % 26], row) for i, row in enumerate(rows)]
    metrics = [m for m in metrics_in("dashboard") if any(m in row.metrics for row in rows)]
    return render_template(
        "compare.html",
        columns=columns,
        metrics=metrics,
        best={metric: best_studies(metric, rows) for metric in metrics},
        metric_label=metric_label,
        format_value=format_value,
        plot=comparison_plot(columns),
    )


def best_studies(metric: str, rows: list[StudyRow]) -> set[str]:
    """Return the names of the studies with the best value; none where all values are equal."""
    values = {row.name: row.metrics[metric] for row in rows if metric in row.metrics}
    best = min(values.values(), key=lambda value: BY_NAME[metric].sense * value)
    differ = len(set(values.values())) > 1
    return {name for name, value in values.items() if value == best} if differ else set()


def comparison_plot(columns: list[tuple[str, StudyRow]]) -> Plot | None:
    """Draw the results of at least two studies in one plot. columns: (letter, study)."""
    points = []
    for letter, row in columns:
        kld, size = row.metrics.get("kld_mean"), row.metrics.get("size_bytes")
        if kld and size:
            low, high = error_bar(kld, row.kld_error)
            points.append(PlotPoint(letter, size / MB, kld, low, high, "stock", True, row.name))
    return cached_plot(tuple(points), PlotLimits()) if len(points) > 1 else None


def render_dry_run(plan: DryRun) -> str:
    """Return the steps of a dry run as a table."""
    steps = plan["steps"]
    return render_template(
        "dry_run.html",
        steps=steps,
        build=sum(step["state"] == "build" for step in steps),
        seconds=sum(step["seconds"] for step in steps if step["seconds"] is not None),
        stop=plan["stop"],
        format_bytes=format_bytes,
    )
