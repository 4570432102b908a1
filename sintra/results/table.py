"""The end of a study in the terminal: the table of its candidates, and what to do next."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from sintra.core.judge import judge, settled
from sintra.core.types import Candidate, Goal, Verdict
from sintra.hardware.boards import corrections
from sintra.results.conversion import conversion_words, warning_words
from sintra.results.formats import format_table
from sintra.results.pages.words import format_bytes
from sintra.results.result import model_file
from sintra.results.verdicts import verdict_words, violation_words
from sintra.study.json_types import CandidateJson, FallbackJson, ResultJson

SHOWN = 12  # of the variants that are only measured on the search text
WIDTH = 80  # columns
NAME_WIDTH = 21  # of them, a variant's name
LLM_VARIABLES = ("SINTRA_LLM_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
HEAD = (
    f"{'':<32}{'KLD':>9}{'same':>7}{'gen.':>7}{'RAM':>6}",
    f"{'  quant':<23}{'size':>9}{'(nats)':>9}{'top-1':>7}{'tok/s*':>7}{'MB*':>6}  result",
)


def results_table(
    result: ResultJson, candidates: Sequence[Candidate], goal: Goal, show_all: bool = False
) -> str:
    """Return the best candidates and what to compare them with, the best first, in 80 columns.

    show_all: also all others, and the probes of sensitivity.
    """
    order = settled(candidates, goal)
    references = [c for c in order[1:] if is_reference(c, order)]
    others = [c for c in order if c not in references]
    shown = [c for i, c in enumerate(others) if i == 0 or show_all or not c.probe]
    rows = [c for i, c in enumerate(shown) if show_all or i < SHOWN or c.decided]
    lines = [*HEAD, *(candidate_line(c, judge(c, goal), c is order[0]) for c in rows)]
    lines += failure_lines(candidates)
    lines += reference_lines(result, references, goal)
    if len(rows) < len(others):
        lines.append(hidden_words([c for c in others if c not in rows]))
    lines += task_lines([*rows, *references])
    lines += footnotes(result)
    lines += wrapped(corrections.board_lines([*rows, *references]))
    if "formats" in result:
        best = rows[0].label if rows else None
        lines += ["", format_table(result["formats"], candidates, best)]
    return "\n".join(lines)


def is_reference(candidate: Candidate, order: Sequence[Candidate]) -> bool:
    """Return whether a candidate is a stock preset beside mixes that were searched."""
    recipe = candidate.recipe
    stock = recipe.format == "gguf" and not (recipe.tensors or recipe.cut)
    return stock and any(c.recipe.tensors for c in order)


def reference_lines(result: ResultJson, references: Sequence[Candidate], goal: Goal) -> list[str]:
    """Return the stock presets that were measured, and the 16-bit model."""
    lines = [candidate_line(c, judge(c, goal)) for c in references]
    if "original" in result:
        numbers = {row["metric"]: row["value"] for row in result["original"]}
        lines.append(table_line("16-bit original", {**numbers, "kld_mean": 0.0, "same_top": 1.0}))
    return ["reference", *lines] if lines else []


def candidate_line(candidate: Candidate, verdict: Verdict, wins: bool = False) -> str:
    """Return a candidate's line of the table; a long name has a line of its own."""
    numbers = {m.metric: m.value for m in candidate.measurements}
    return table_line(candidate.label, numbers, verdict_words(candidate, verdict), wins)


def table_line(name: str, numbers: Mapping[str, float], words: str = "", wins: bool = False) -> str:
    """Return a line of the table. numbers: metric -> value; wins: whether it is the result."""
    size = format_bytes(numbers["size_bytes"]) if "size_bytes" in numbers else "-"
    kld = format_small(numbers["kld_mean"]) if "kld_mean" in numbers else "-"
    top = f"{100 * numbers['same_top']:.1f}%" if "same_top" in numbers else "-"
    speed = format_speed(numbers["device_tg_tps"]) if "device_tg_tps" in numbers else "-"
    ram = f"{numbers['device_ram_bytes'] / 1e6:.0f}" if "device_ram_bytes" in numbers else "-"
    first = f"{'> ' if wins else '  '}{padded_name(name)}"
    return f"{first}{size:>9}{kld:>9}{top:>7}{speed:>7}{ram:>6}  {words}".rstrip()


def format_small(value: float) -> str:
    """Return a KLD in nats with three digits that count, in at most eight columns."""
    return f"{value:.4f}" if value >= 0.01 or value == 0 else f"{value:.2g}"


def format_speed(value: float) -> str:
    """Return tokens per second in at most six columns."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def hidden_words(hidden: Sequence[Candidate]) -> str:
    """Return how many candidates the table leaves out, and how to see them."""
    probes = sum(bool(c.probe) for c in hidden)
    parts = [f"{probes} sensitivity probe{'s' * (probes != 1)}"] if probes else []
    rest = len(hidden) - probes
    parts += [f"{rest} other variant{'s' * (rest != 1)}"] if rest else []
    return f"{' and '.join(parts)} not shown: doit optimize ... --all shows them"


def wrapped(lines: Iterable[str], indent: str = "  ") -> list[str]:
    """Return lines of at most 80 columns; what goes on in the next line is indented.

    No line ends at a no-break space, which is printed as a space.
    """
    return [
        part.replace("\xa0", " ")
        for line in lines
        for part in textwrap.wrap(
            line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
        )
    ]


def failure_lines(candidates: Sequence[Candidate]) -> list[str]:
    """Return what each candidate failed of."""
    return wrapped(
        f"  {candidate.label}  failed: {failure.kind}: {failure.message}"
        for candidate in candidates
        if (failure := candidate.failure)
    )


def task_lines(order: Sequence[Candidate]) -> list[str]:
    """Return the scores at the tasks of each candidate that is measured on the report text."""
    return wrapped(
        task_line(candidate, measurement.metric.split(":")[1])
        for candidate in order
        if candidate.decided
        for measurement in candidate.measurements
        if re.fullmatch(r"task:[^:]+:retention", measurement.metric)
    )


def task_line(candidate: Candidate, task: str) -> str:
    """Return the share of the 16-bit model's score that a candidate keeps at a task."""
    retention = candidate.find(f"task:{task}:retention")
    agreement = candidate.find(f"task:{task}:agreement")
    assert retention is not None
    answers = f", {agreement.value:.1%} of {agreement.n} answers the same" if agreement else ""
    return (
        f"task {task}: {candidate.label} keeps {retention.value:.4f} "
        f"+-{retention.stderr or 0:.4f} of the score{answers}"
    )


def footnotes(result: ResultJson) -> list[str]:
    """Return where the numbers come from, and a warning for a model with code of its own."""
    unless = " where no board was measured" if "board" in result else ""
    lines = [
        f"* estimated for {result['hardware']}{unless}; KLD and top-1 against "
        f"{original_words(result)}; pass (validation): not measured on the report text",
        *source_notes(result),
    ]
    if result.get("trust_remote_code"):
        lines.append(
            f"{result['model']} was read with Python code of its own (model.trust_remote_code=true)"
        )
    return wrapped(lines)


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
        return f"the source, which was {kind} already: its own quality loss is not counted"
    return "the 16-bit model"


def padded_name(name: str) -> str:
    """Return a variant's name as it fills its column; a longer one has a line of its own."""
    return f"{name:<{NAME_WIDTH}}" if len(name) <= NAME_WIDTH else f"{name}\n{'':<{NAME_WIDTH + 2}}"


def advice_line(result: ResultJson) -> str:
    """Return what came out of a study, and what to do next, in one line."""
    best = result["winner"]
    if not best:
        return f"{result['status']}: {result['reason'] or 'no variant could be built'}"
    if result["status"] == "pass":
        return pass_line(result, best)
    if result["status"] == "inconclusive":
        return inconclusive_line(best)
    violated = violation_words(best["verdict"]["violated"][0])
    return (
        f"fail: the best is {best['name']}: {violated}; it is in outputs/{result['study']}/"
        f"{model_file(best)['path']}; relax that limit, or try hardware with more room"
    )


def pass_line(result: ResultJson, best: CandidateJson) -> str:
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
        f"pass: {best['name']}, {file['bytes'] / 1e6:.2f} MB{stock}, in "
        f"outputs/{result['study']}/{file['path']}{next_step}"
    )


def inconclusive_line(best: CandidateJson) -> str:
    """Return the advice where more measurements could decide."""
    if "device_tg_tps_sustained" in best["verdict"]["unknown"]:
        return (
            f"inconclusive: {best['name']} is the best; its sustained speed is only simulated: "
            "goal.accept_simulated=true takes that"
        )
    return (
        f"inconclusive: {best['name']} is the best so far; a larger max_rounds or more "
        "probe.report_tokens would tell"
    )


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
