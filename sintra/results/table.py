"""The end of a study in the terminal: the table of its candidates, and what to do next."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from sintra.core.judge import judge, settled
from sintra.core.recipe import Recipe, variant_name
from sintra.core.types import Candidate, Goal, Verdict
from sintra.hardware.boards import corrections
from sintra.results.conversion import conversion_words, warning_words
from sintra.results.formats import format_kld, format_metric, format_table
from sintra.results.result import model_file
from sintra.study.json_types import CandidateJson, FallbackJson, ResultJson

SHOWN = 12  # of the variants that are only measured on the search text
WIDTH, NAME_WIDTH = 80, 18  # columns of the table, and of a variant's name
LLM_VARIABLES = ("SINTRA_LLM_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")


def results_table(result: ResultJson, candidates: Sequence[Candidate], goal: Goal) -> str:
    """Return the best candidates and every stock preset, the best first, in 80 columns."""
    order = settled(candidates, goal)
    rows = [c for i, c in enumerate(order) if i < SHOWN or c.decided or not c.recipe.tensors]
    lines = [
        f"{'variant':<{NAME_WIDTH}}{'MB':>8} "
        f"{'KLD (nats)':>18}{'top %':>6}{'tok/s*':>7}{'MB RAM*':>8}  verdict"
    ]
    lines += [candidate_line(c, judge(c, goal)) for c in rows]
    lines += failure_lines(candidates)
    if len(rows) < len(order):
        lines.append(
            f"and {len(order) - len(rows)} more that were measured on the way: result.json "
            "has them all"
        )
    lines += task_lines(rows)
    lines += footnotes(result)
    lines += corrections.board_lines(rows)
    if "formats" in result:
        best = variant_name(rows[0].recipe) if rows else None
        lines += ["", format_table(result["formats"], candidates, best)]
    return "\n".join(lines)


def candidate_line(candidate: Candidate, verdict: Verdict) -> str:
    """Return a candidate's line of the table."""
    name = short_name(variant_name(candidate.recipe))
    size = format_metric(candidate, "size_bytes", 1e6, 2)
    top = format_metric(candidate, "same_top", 0.01, 1)
    speed = candidate.value("device_tg_tps")
    rate = "-" if speed is None else f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
    memory = format_metric(candidate, "device_ram_bytes", 1e6, 0)
    line = (
        f"{name:<{NAME_WIDTH}}{size:>8} {format_kld(candidate):>18}{top:>6}{rate:>7}{memory:>8}"
        f"  {verdict_words(candidate, verdict)}"
    )
    return line[:WIDTH]


def failure_lines(candidates: Sequence[Candidate]) -> list[str]:
    """Return a line for each candidate that failed."""
    return [
        f"{short_name(variant_name(candidate.recipe)):<{NAME_WIDTH}}  failed: "
        f"{failure.kind}: {failure.message}"
        for candidate in candidates
        if (failure := candidate.failure)
    ]


def task_lines(order: Sequence[Candidate]) -> list[str]:
    """Return the scores at the tasks of each candidate that is measured on the report text."""
    return [
        task_line(candidate, measurement.metric.split(":")[1])
        for candidate in order
        if candidate.decided
        for measurement in candidate.measurements
        if re.fullmatch(r"task:[^:]+:retention", measurement.metric)
    ]


def task_line(candidate: Candidate, task: str) -> str:
    """Return the share of the 16-bit model's score that a candidate keeps at a task."""
    retention = candidate.find(f"task:{task}:retention")
    agreement = candidate.find(f"task:{task}:agreement")
    assert retention is not None
    answers = f", {agreement.value:.1%} of {agreement.n} answers the same" if agreement else ""
    return (
        f"task {task}: {variant_name(candidate.recipe)} keeps {retention.value:.4f} "
        f"+-{retention.stderr or 0:.4f} of the score{answers}"
    )


def footnotes(result: ResultJson) -> list[str]:
    """Return where the numbers come from, and a warning for a model with code of its own."""
    unless = ", where no board was asked" if "board" in result else ""
    lines = [
        f"* estimated for {result['hardware']}{unless}; KLD (+- standard error) and the share "
        "of equal top",
        f"tokens are measured against {original_words(result)}",
    ]
    lines += source_notes(result)
    if result.get("trust_remote_code"):
        lines.append(
            f"{result['model']} was read with Python code of its own (model.trust_remote_code=true)"
        )
    return lines


def source_notes(result: ResultJson) -> list[str]:
    """Return what there is to know of the 16-bit GGUF that everything is compared with."""
    lines = [fallback_words(row) for row in result.get("fallbacks", [])]
    if compared := result.get("conversion"):
        lines.append(conversion_words(compared))
    if warnings := result.get("warnings"):
        lines.append(warning_words(warnings))
    return lines


def fallback_words(row: FallbackJson) -> str:
    """Return what stands in the place of which type, and why, in a line."""
    asked: dict[str, list[str]] = {}
    for kind, other in row["written"].items():
        asked.setdefault(other, []).append(kind)
    pairs = ", ".join(f"{' and '.join(kinds)} as {other}" for other, kinds in asked.items())
    return (
        f"rows of {row['columns']} ({row['share']:.0%} of the weights) hold no whole blocks of 256:"
        f" there {pairs}"
    )


def original_words(result: ResultJson) -> str:
    """Return what a study's variants are compared with, in words."""
    if kind := result.get("decoded"):
        return f"the source, which was {kind} already: its own damage isn't counted"
    return "the 16-bit model"


def short_name(name: str) -> str:
    """Return a variant's name as it fits the first column; result.json has all of it."""
    return name if len(name) < NAME_WIDTH else f"{name[: NAME_WIDTH - 9]}..{name[-6:]}"


def verdict_words(candidate: Candidate, verdict: Verdict) -> str:
    """Return a verdict in a word or two."""
    if verdict.violated:
        return f"no: {verdict.violated[0][0].removeprefix('device_')}"
    if verdict.status == "undecided" and not candidate.decided and not verdict.unknown:
        return "so far yes"
    return verdict.status


def advice_line(result: ResultJson) -> str:
    """Return what came out of a study, and what to do next, in one line."""
    best = result["winner"]
    if not best:
        return f"{result['status']}: {result['reason'] or 'no variant could be built'}"
    if result["status"] == "met":
        return met_line(result, best)
    if result["status"] == "undecided":
        return undecided_line(best)
    metric, value, limit, by = best["verdict"]["violated"][0]
    return (
        f"unmet: the best is {recipe_name(best)}, whose {metric} is {value:.6g} where the limit is "
        f"{limit:.6g} (off by {by:.3g}); it is in outputs/{result['study']}/"
        f"{model_file(best)['path']}; relax that limit, or try hardware with more room"
    )


def met_line(result: ResultJson, best: CandidateJson) -> str:
    """Return the advice where the goal holds."""
    searched = any(c["recipe"]["tensors"] for c in result["candidates"])
    stock = (
        ", a stock preset that no mix could beat"
        if searched and not best["recipe"]["tensors"]
        else ""
    )
    file = model_file(best)
    next_step = "; next: doit export_ollama" if file["path"] == "model.gguf" else ""
    return (
        f"met: {recipe_name(best)}, {file['bytes'] / 1e6:.2f} MB{stock}, in "
        f"outputs/{result['study']}/{file['path']}{next_step}"
    )


def undecided_line(best: CandidateJson) -> str:
    """Return the advice where more measurements could decide."""
    if "device_tg_tps_sustained" in best["verdict"]["unknown"]:
        return (
            f"undecided: {recipe_name(best)} is the best; its sustained speed is only simulated: "
            "goal.accept_simulated=true takes that"
        )
    return (
        f"undecided: {recipe_name(best)} is the best so far; a larger max_rounds or more "
        "probe.report_tokens would tell"
    )


def recipe_name(candidate: CandidateJson) -> str:
    """Return the short name of a candidate of result.json."""
    return variant_name(Recipe.of(candidate["recipe"]))


def adviser_hint(planner: str) -> str:
    """Return how to ask a language model, where the environment has a key or an address and the
    planner asks nobody; else "". None is ever asked because of that alone.
    """
    has_endpoint = any(os.environ.get(name) for name in LLM_VARIABLES)
    if planner in ("llm", "hybrid", "replay") or not has_endpoint:
        return ""
    from sintra.planning.llm.budget import bare_url  # not on the no-op path

    url = os.environ.get("OPENAI_BASE_URL") or "https://HOST/v1"
    return (
        f"a language model may know more: add planner=hybrid planner.base_url={bare_url(url)} "
        "planner.model=NAME"
    )
