"""The formats of a study side by side: the best variant of each, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from sintra.build.graph import Graph
from sintra.core.artifact import Artifact
from sintra.core.format import format_of
from sintra.core.judge import judge, settled
from sintra.core.types import Candidate, Goal
from sintra.planning.other_formats import buildable_formats, unsupported_format_lines
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store
from sintra.study.json_types import FormatJson

SAME_TOKENIZER = 0.99  # share of equal tokens above which two tokenizers count as the same
LINE = 160  # characters of the reason why a format has no variant
FOOTER = (
    "tok/s (one after the other) and RAM measured on this machine, in each format's own runtime"
)


def format_rows(
    graph: Graph, store: Store, candidates: Sequence[Candidate], goal: Goal
) -> list[FormatJson]:
    """Return a row for each format that was asked for."""
    study = graph.study
    untried = [name for name in study.formats if name not in buildable_formats(study)]
    reasons = dict(zip(untried, unsupported_format_lines(study), strict=True))
    rows = []
    for name in study.formats:
        own = [c for c in candidates if c.recipe.format == name]
        order = settled(own, goal)
        if order:
            rows.append(best_variant_row(graph, store, order[0], goal))
        elif name in reasons:
            rows.append(no_variant_row(name, "not_tried", reasons[name]))
        else:
            rows.append(no_variant_row(name, "failed", failure_reason(own)))
    return rows


def best_variant_row(graph: Graph, store: Store, best: Candidate, goal: Goal) -> FormatJson:
    """Return the row of a format's best variant."""
    name = best.recipe.format
    row: FormatJson = {
        "format": name,
        "runtime": format_of(name).runtime,
        "recipe": best.label,
        "status": judge(best, goal).status,
    }
    if format_of(name).environment:
        row["agreement"] = runtime_agreement(graph, store, name)
    return row


def no_variant_row(name: str, status: str, reason: str) -> FormatJson:
    """Return the row of a format without a variant."""
    runtime = format_of(name).runtime
    return {"format": name, "runtime": runtime, "status": status, "reason": reason}


def failure_reason(candidates: Sequence[Candidate]) -> str:
    """Return the first failure of a format's candidates in words."""
    failure = next((c.failure for c in candidates if c.failure), None)
    return f"{failure.kind}: {failure.message}" if failure else "nothing was proposed"


def runtime_agreement(graph: Graph, store: Store, name: str) -> dict[str, float]:
    """Return metric -> value: how a format's runtime agrees with llama.cpp on the 16-bit model."""
    outcome = graph.agreement(format_of(name).environment).outcome(store)
    if not isinstance(outcome, Artifact):
        return {}
    return {
        m.metric: m.value for m in parse_measurements(store.read_json(outcome, MEASUREMENTS_FILE))
    }


def format_table(
    rows: Sequence[FormatJson], candidates: Sequence[Candidate], winner: str | None
) -> str:
    """Return the formats side by side: the best of each on the same tokens, with speed and memory
    as measured on this machine. `winner` is the name of the study's best variant.
    """
    by_name = {c.label: c for c in candidates}
    head = (
        f"{'format':<12}{'best':<22}{'MB':>8}{'KLD (nats)':>20}{'same top':>10}{'tok/s':>9}"
        f"{'RAM MB':>8}  runtime"
    )
    lines = [
        format_line(row, by_name[row["recipe"]], row["recipe"] == winner)
        if "recipe" in row
        else f"{row['format']:<12}{row['reason']}"[:LINE]
        for row in rows
    ]
    notes = [
        agreement_line(row["format"], agreed) for row in rows if (agreed := row.get("agreement"))
    ]
    return "\n".join([head, *lines, *notes, FOOTER])


def format_line(row: FormatJson, best: Candidate, wins: bool) -> str:
    """Return a format's line of the table."""
    size = format_metric(best, "size_bytes", 1e6, 2)
    top = format_metric(best, "same_top", 0.01, 1)
    speed = format_metric(best, "tg_tps", 1, 0)
    memory = format_metric(best, "ram_peak_bytes", 1e6, 0)
    mark = " (winner)" if wins else ""
    return (
        f"{row['format']:<12}{best.label:<22}{size:>8}{format_kld(best):>20}"
        f"{top + ' %':>10}"
        f"{speed:>9}{memory:>8}  {row['runtime']}{mark}"
    )


def agreement_line(name: str, agreed: dict[str, float]) -> str:
    """Return how far the two runtimes' 16-bit models are apart, in words."""
    same_share = agreed["agree_tokens"]
    warning = (
        ""
        if same_share > SAME_TOKENIZER
        else ": transformers reads this model's tokenizer differently"
    )
    return (
        f"{name}: the two 16-bit models are {agreed['agree_kld_mean']:.2g} nats apart on the same "
        f"tokens; the two tokenizers have {100 * same_share:.4g} % of theirs in common{warning}"
    )


def format_metric(candidate: Candidate, metric: str, scale: float, digits: int) -> str:
    """Return a metric's value divided by the scale, or "-" where it is unknown."""
    value = candidate.value(metric)
    return "-" if value is None else f"{value / scale:.{digits}f}"


def format_kld(candidate: Candidate) -> str:
    """Return the mean KLD with its standard error, nats, or "-" where it is unknown."""
    kld = candidate.find("kld_mean")
    return f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
