"""Render a study's report: all that `report_data` collects, as one page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sintra.results.pages import charts, surgery
from sintra.results.pages.candidate_rows import (
    MB,
    CandidateLine,
    candidate_lines,
    plot_limits,
    plot_points,
)
from sintra.results.pages.charts import Plot
from sintra.results.pages.command_lines import usage_commands
from sintra.results.pages.page import render_template
from sintra.results.pages.report_data import ReportData, collect_report_data, read_source
from sintra.results.pages.summary import key_figures, kld_scale, limit_lines, verdict_sentence
from sintra.results.pages.words import (
    LEVEL_TEXTS,
    STATUS_TEXTS,
    describe_aim,
    describe_depths,
    format_bytes,
    format_number,
    hide_folders,
)
from sintra.results.table import original_words, source_notes
from sintra.store.files import write_atomic
from sintra.study.json_types import ProposalJson, RoundJson
from sintra.study.workspace import Workspace

FIRST_COMMANDS = 3  # to use the result, that stand unopened
FIRST_ROWS = 12  # candidates that the table shows unopened, probes not among them


@dataclass(frozen=True)
class ProposalLine:
    """A proposal as the report shows it."""

    name: str  # the recipe's name
    level: str  # "build", "screen", "search" or "report"
    author: str
    reason: str
    gist: str  # author and reason, for the chapter's heading
    expected: float | None  # the planner's prediction of the mean KLD, nats
    measured: float | None  # mean KLD, nats; only of proposals on a whole text
    confidence: float | None  # how sure the author was, 0 to 1


@dataclass(frozen=True)
class RoundLines:
    """A round as the report shows it."""

    number: int  # from 1
    proposals: list[ProposalLine]
    stop: str  # why the study ended with it; "None" where it did not

    @property
    def gist(self) -> str:
        """Return the last proposal's reason, or the round's number where nothing was proposed."""
        return self.proposals[-1].gist if self.proposals else f"{self.number}"


@dataclass(frozen=True)
class Chapter:
    """Rounds in a row whose last proposals have the same reason."""

    first: int  # number of the first round
    last: int  # number of the last round
    proposals: list[ProposalLine]
    gist: str  # "" where nothing was proposed
    words: str  # what was done, or why the study stopped
    expected: bool  # whether any proposal came with a prediction


def write_report(root: Path, study: str, workspace: Workspace | None = None) -> Path:
    """Write outputs/<study>/report.html. Raises UserError where there is no such result."""
    source = read_source(root, study, workspace)
    path = source.folder / "report.html"
    write_atomic(path, render_report(collect_report_data(root, source)))
    return path


def render_report(data: ReportData) -> str:
    """Return the report as HTML."""
    result, tensors = data.result, data.tensor_map
    lines = candidate_lines(result)
    probes = [line for line in lines if line.probe]
    real = [line for line in lines if not line.probe]
    uses = usage_commands(result, data.command, data.planless_command)
    return render_template(
        "report.html",
        data=data,
        result=result,
        original=original_words(result),
        notes=source_notes(result),
        status=STATUS_TEXTS[result["status"]],
        verdict=verdict_sentence(result),
        facts=key_figures(result, data.original_bytes),
        limits=limit_lines(result),
        aim=describe_aim(result["goal"]),
        rows=lines,
        first=real[:FIRST_ROWS],
        others=real[FIRST_ROWS:],
        probes=probes,
        scale=kld_scale(result),
        plots=draw_plots(data, real),
        hidden_points=sum(line.kld is not None for line in probes),
        extra=charts.plots_available(),
        figures=surgery.draw_figures(tensors) if tensors else [],
        legend=surgery.bit_legend(),
        stock=any(line.kind == "stock" and line.kld for line in lines),
        has_shares=tensors is not None and tensors.has_shares,
        chapters=chapters(data.rounds, lines),
        winner=lines[0] if result["winner"] else None,
        depths=describe_depths(result["winner"]) if result["winner"] else "",
        first_uses=uses[:FIRST_COMMANDS],
        more_uses=uses[FIRST_COMMANDS:],
        format_bytes=format_bytes,
        format_number=format_number,
        parts=list(zip(charts.TINTS, charts.MEMORY_PARTS, strict=True)),
    )


def draw_plots(data: ReportData, lines: list[CandidateLine]) -> dict[str, Plot]:
    """Draw the plots for which there are numbers: pareto, memory, heat. None without the extra."""
    plots: dict[str, Plot] = {}
    if not charts.plots_available():
        return plots
    if points := plot_points(lines):
        limits = {c["metric"]: c["limit"] for c in data.result["goal"]["constraints"]}
        plots["pareto"] = charts.draw_quality(points, plot_limits(limits))
    if data.memory:
        usable = (data.usable_bytes or 0) / MB
        near = usable < 2 * max(bar.total for bar in data.memory)
        plots["memory"] = charts.draw_memory(data.memory, usable if near else None)
    if data.heat:
        plots["heat"] = charts.draw_heat(data.heat.samples)
    return plots


def chapters(rounds: list[RoundJson], lines: list[CandidateLine]) -> list[Chapter]:
    """Return the rounds; those in a row that have the same reason are one chapter."""
    by_name = {line.name: line for line in lines}
    rounds_lines = [
        RoundLines(r["round"], [proposal_line(p, by_name) for p in r["proposals"]], str(r["stop"]))
        for r in rounds
    ]
    return [_chapter(list(group)) for _, group in groupby(rounds_lines, lambda r: r.gist)]


def _chapter(rounds: list[RoundLines]) -> Chapter:
    proposals = [line for r in rounds for line in r.proposals]
    return Chapter(
        first=rounds[0].number,
        last=rounds[-1].number,
        proposals=proposals,
        gist=rounds[0].gist if proposals else "",
        words=count_levels(proposals) or hide_folders(rounds[0].stop),
        expected=any(line.expected for line in proposals),
    )


def proposal_line(proposal: ProposalJson, by_name: dict[str, CandidateLine]) -> ProposalLine:
    """Return a proposal of rounds.json as a line. by_name: the candidates by their names."""
    name, level = proposal["name"], proposal["level"]
    reason = hide_folders(proposal["why"])
    candidate = by_name.get(name) if level in ("search", "report") else None
    return ProposalLine(
        name=name,
        level=level,
        author=proposal["author"],
        reason=reason,
        gist=f"{proposal['author']}: {reason}",
        expected=proposal.get("predicted", {}).get("kld_mean"),
        measured=candidate.kld if candidate else None,
        confidence=proposal.get("confidence"),
    )


def count_levels(proposals: list[ProposalLine]) -> str:
    """Return how many proposals were made, and how many measured on which text."""
    levels = sorted(proposal.level for proposal in proposals)
    counts = [(level, len(list(group))) for level, group in groupby(levels)]
    return ", ".join(
        f"{count} made" if level == "build" else f"{count} on {LEVEL_TEXTS[level]}"
        for level, count in counts
    )
