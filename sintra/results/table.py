"""TODO."""

from __future__ import annotations

import os
import re
from typing import Any

from sintra.core.judge import judge, ranked
from sintra.core.recipe import Recipe, variant_name
from sintra.core.types import Candidate, Goal, Verdict
from sintra.hardware.boards import corrections
from sintra.results import formats
from sintra.results.result import ENDPOINT, NAME, SHOWN, WIDTH


def table(result: dict[str, Any], known: list[Candidate], goal: Goal) -> str:
    """The best candidates and every stock preset, the best first, in 80 columns."""
    everything = ranked(known, goal)
    order = [c for i, c in enumerate(everything) if i < SHOWN or c.decided or not c.recipe.tensors]
    lines = [
        (
            f"{'variant':<{NAME}}{'MB':>8} "
            f"{'KLD (nats)':>18}{'top %':>6}{'tok/s*':>7}{'MB RAM*':>8}  verdict"
        )
    ]
    for candidate in order:
        lines.append(_line(candidate, judge(candidate, goal)))
    for candidate in known:
        if candidate.failure:
            lines.append(
                f"{short(variant_name(candidate.recipe)):<{NAME}}  failed: {candidate.failure.kind}: "
                f"{candidate.failure.message}"
            )
    if len(order) < len(everything):
        lines.append(
            f"and {len(everything) - len(order)} more that were measured on the way: result.json "
            "has them all"
        )
    lines += task_lines(order)
    unless = ", where no board was asked" if "board" in result else ""
    lines += [
        (
            f"* estimated for {result['hardware']}{unless}; KLD (+- standard error) and the share "
            "of equal top"
        ),
        "tokens are measured against the 16-bit model",
    ]
    if result.get("trust_remote_code"):
        lines.append(
            f"{result['model']} was read with Python code of its own (model.trust_remote_code=true)"
        )
    lines += corrections.lines(order)
    if "formats" in result:
        best = variant_name(order[0].recipe) if order else None
        lines += ["", formats.format_table(result["formats"], known, best)]
    return "\n".join(lines)


def task_lines(order: list[Candidate]) -> list[str]:
    """What the tasks said of each candidate whose quality is decided."""
    lines = []
    for candidate in (c for c in order if c.decided):
        for name in [
            m.metric.split(":")[1]
            for m in candidate.measurements
            if re.fullmatch(r"task:[^:]+:retention", m.metric)
        ]:
            kept, same = (
                candidate.find(f"task:{name}:retention"),
                candidate.find(f"task:{name}:agreement"),
            )
            assert kept is not None
            answers = f", {same.value:.1%} of {same.n} answers the same" if same else ""
            lines.append(
                f"task {name}: {variant_name(candidate.recipe)} keeps {kept.value:.4f} "
                f"+-{kept.stderr or 0:.4f} of the score{answers}"
            )
    return lines


def _line(candidate: Candidate, verdict: Verdict) -> str:
    def show(metric: str, scale: float, digits: int) -> str:
        value = candidate.value(metric)
        return "-" if value is None else f"{value / scale:.{digits}f}"

    kld = candidate.find("kld_mean")
    quality = f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
    speed = candidate.value("device_tg_tps")
    rate = "-" if speed is None else f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
    return (
        f"{short(variant_name(candidate.recipe)):<{NAME}}{show('size_bytes', 1e6, 2):>8} "
        f"{quality:>18}{show('same_top', 0.01, 1):>6}"
        f"{rate:>7}{show('device_ram_bytes', 1e6, 0):>8}  {words(candidate, verdict)}"[:WIDTH]
    )


def short(name: str) -> str:
    """A variant's name in the table's first column; result.json has all of it."""
    return name if len(name) < NAME else f"{name[: NAME - 9]}..{name[-6:]}"


def words(candidate: Candidate, verdict: Verdict) -> str:
    """A verdict in a word or two."""
    if verdict.violated:
        return f"no: {verdict.violated[0][0].removeprefix('device_')}"
    if verdict.status == "undecided" and not candidate.decided and not verdict.unknown:
        return "so far yes"
    return verdict.status


def advice(result: dict[str, Any]) -> str:
    """One line: what came out, and what to do next."""
    folder = f"outputs/{result['study']}"
    if not result["winner"]:
        return f"{result['status']}: {result['reason'] or 'no variant could be built'}"
    best = result["winner"]
    name = recipe_name(best["recipe"])
    searched = any(c["recipe"]["tensors"] for c in result["candidates"])
    stock = (
        ", a stock preset that no mix could beat"
        if searched and not best["recipe"]["tensors"]
        else ""
    )
    path = best["artifact"]["path"]
    next_step = "; next: doit export_ollama" if path == "model.gguf" else ""
    if result["status"] == "met":
        return (
            f"met: {name}, {best['artifact']['bytes'] / 1e6:.2f} MB{stock}, in "
            f"{folder}/{path}{next_step}"
        )
    if result["status"] == "undecided" and "device_tg_tps_sustained" in best["verdict"]["unknown"]:
        return (
            f"undecided: {name} is the best; its sustained speed is only simulated: "
            "goal.accept_simulated=true takes that"
        )
    if result["status"] == "undecided":
        return (
            f"undecided: {name} is the best so far; a larger max_rounds or more "
            "probe.report_tokens would tell"
        )
    metric, value, limit, by = best["verdict"]["violated"][0]
    return (
        f"unmet: the best is {name}, whose {metric} is {value:.6g} where the limit is {limit:.6g} "
        f"(off by {by:.3g}); it is in {folder}/{path}; relax that limit, or try hardware with "
        "more room"
    )


def adviser_at_hand(planner: str) -> str:
    """How to ask a language model, where the environment has a key or an address and nobody was
    asked; else "". None is ever asked because of that alone.
    """
    if planner in ("llm", "hybrid", "replay") or not any(os.environ.get(name) for name in ENDPOINT):
        return ""
    from sintra.planning.llm.budget import bare_url  # not on the no-op path

    url = os.environ.get("OPENAI_BASE_URL") or "https://HOST/v1"
    return (
        f"a language model may know more: add planner=hybrid planner.base_url={bare_url(url)} "
        "planner.model=NAME"
    )


def recipe_name(data: dict[str, Any]) -> str:
    """The short name of a recipe's JSON."""
    return variant_name(Recipe.of(data))
