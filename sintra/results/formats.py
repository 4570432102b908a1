"""TODO."""

from __future__ import annotations

from typing import Any

from sintra.build.graph import Graph
from sintra.core.format import format_of
from sintra.core.judge import judge, ranked
from sintra.core.recipe import variant_name
from sintra.core.types import Candidate, Failure, Goal
from sintra.planning.other_formats import buildable_formats, unsupported_format_lines
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store

SAME = 0.99


def by_format(
    graph: Graph, store: Store, known: list[Candidate], goal: Goal
) -> list[dict[str, Any]]:
    """A row for each format that was asked for: its best variant, or why there is none."""
    reasons = dict(
        zip(
            [f for f in graph.study.formats if f not in buildable_formats(graph.study)],
            unsupported_format_lines(graph.study),
            strict=True,
        )
    )
    rows = []
    for name in graph.study.formats:
        mine = [c for c in known if c.recipe.format == name]
        best = ranked(mine, goal)
        row: dict[str, Any] = {"format": name, "runtime": format_of(name).runtime}
        failed = next((c.failure for c in mine if c.failure), None)
        if best:
            row |= {"recipe": variant_name(best[0].recipe), "status": judge(best[0], goal).status}
            row |= {"agreement": agreement(graph, store, name)} if name != "gguf" else {}
        else:
            word = f"{failed.kind}: {failed.message}" if failed else "nothing was proposed"
            row |= {
                "status": "not_tried" if name in reasons else "failed",
                "reason": reasons.get(name, word),
            }
        rows.append(row)
    return rows


def agreement(graph: Graph, store: Store, name: str) -> dict[str, float]:
    """How the format's runtime agrees with llama.cpp on the 16-bit model: metric -> value."""
    found = graph.agreement(format_of(name).environment).outcome(store)
    if found is None or isinstance(found, Failure):
        return {}
    return {
        m.metric: m.value for m in parse_measurements(store.read_json(found, MEASUREMENTS_FILE))
    }


def format_table(rows: list[dict[str, Any]], known: list[Candidate], winner: str | None) -> str:
    """The formats side by side: the best of each on the same tokens, with speed and memory as
    measured on this machine.
    """
    lines = [
        f"{'format':<12}{'best':<22}{'MB':>8}{'KLD (nats)':>20}{'same top':>10}{'tok/s':>9}{'RAM MB':>8}  runtime"
    ]
    found = {variant_name(c.recipe): c for c in known}
    for row in rows:
        if "recipe" not in row:
            lines.append(f"{row['format']:<12}{row['reason']}"[:160])
            continue
        best = found[row["recipe"]]
        kld = best.find("kld_mean")
        quality = f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
        cells = [
            (_show(best, n, s, d))
            for n, s, d in (("same_top", 0.01, 1), ("tg_tps", 1, 0), ("ram_peak_bytes", 1e6, 0))
        ]
        mark = " (winner)" if row["recipe"] == winner else ""
        size = _show(best, "size_bytes", 1e6, 2)
        lines.append(
            f"{row['format']:<12}{variant_name(best.recipe):<22}{size:>8}{quality:>20}{cells[0] + ' %':>10}{cells[1]:>9}"
            f"{cells[2]:>8}  {row['runtime']}{mark}"
        )
    for row in rows:
        if agreed := row.get("agreement"):
            trap = (
                ""
                if agreed["agree_tokens"] > SAME
                else ": transformers reads this model's tokenizer differently"
            )
            lines.append(
                f"{row['format']}: the two 16-bit models are {agreed['agree_kld_mean']:.2g} nats "
                "apart on the same tokens; the two tokenizers have "
                f"{100 * agreed['agree_tokens']:.4g} % of theirs in common{trap}"
            )
    return "\n".join(
        [
            *lines,
            (
                "tok/s (one after the other) and RAM measured on this machine, in each format's "
                "own runtime"
            ),
        ]
    )


def _show(candidate: Candidate, metric: str, scale: float, digits: int) -> str:
    value = candidate.value(metric)
    return "-" if value is None else f"{value / scale:.{digits}f}"
