"""The last lines of a study in the terminal: the result, its bounds, its files, what is next."""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.recipe import Recipe
from sintra.formats.gguf.sizes import bits_per_weight
from sintra.results.pages.words import format_bytes, limits_held
from sintra.results.result import model_file
from sintra.results.table import format_small, wrapped
from sintra.results.verdicts import violation_words
from sintra.study.json_types import CandidateJson, ResultJson

COLUMN = 8  # where what a line says begins
INDENT = " " * COLUMN
Line = tuple[str, str]  # what it is about, and what is to be said


def ending(result: ResultJson, study: Study) -> str:
    """Return what came out, where it is, and what to do with it, in 80 columns."""
    lines: list[Line] = [(result["status"].upper(), verdict_words(result))]
    lines += [("", words) for words in bound_words(result, study)]
    folder, winner = f"outputs/{result['study']}", result["winner"]
    if winner:
        lines.append(("Model", f"{folder}/{model_file(winner)['path']}"))
    lines.append(("Report", f"{folder}/report.html"))
    lines += next_lines(result)
    rows = (f"{f'{name}  ':<{COLUMN}}{words}" for name, words in lines if words)
    return "\n".join(wrapped(rows, INDENT))


def verdict_words(result: ResultJson) -> str:
    """Return what came out, in a sentence or two."""
    winner, limits = result["winner"], result["goal"]["constraints"]
    if winner is None or result["status"] == "impossible":
        return result["reason"].removeprefix("impossible: ") or "no variant could be built"
    if result["status"] == "pass":
        held = limits_held(len(limits)) or "no limit was set"
        return f"{held}: {winner_words(result, winner)}"
    if result["status"] == "fail":
        violated = violation_words(winner["verdict"]["violated"][0])
        return f"no candidate holds all limits; closest: {winner['name']}: {violated}"
    if "device_tg_tps_sustained" in winner["verdict"]["unknown"]:
        why = "its sustained speed is only simulated: goal.accept_simulated=true takes that"
    else:
        why = "more probe.report_tokens or a larger max_rounds can decide"
    return f"{winner['name']} is the best; {why}"


def winner_words(result: ResultJson, winner: CandidateJson) -> str:
    """Return the winner's size, as a share of the 16-bit model, and its KLD with its error."""
    size = model_file(winner)["bytes"]
    original = next((m["value"] for m in result.get("original", []) if m["unit"] == "bytes"), None)
    share = f" ({100 * size / original:.0f} % of 16 bits)" if original else ""
    words = f"{winner['name']}, {format_bytes(size)}{share}"
    kld = next((m for m in winner["measurements"] if m["metric"] == "kld_mean"), None)
    if kld is None:
        return words
    return f"{words}, KLD {format_small(kld['value'])} +- {format_small(kld.get('stderr') or 0.0)}"


def bound_words(result: ResultJson, study: Study) -> list[str]:
    """Return what kept the search from going further, as far as that is known."""
    winner, lines = result["winner"], []
    if winner and result["status"] == "pass" and study.goal.optimise == "size_bytes":
        recipe = Recipe.of(winner["recipe"])
        if recipe.uniform and not recipe.cut and recipe.tensors[0][1] == smallest_type(study):
            lines.append(
                f"{recipe.tensors[0][1]} is the smallest type searched; planner.types can go lower"
            )
    if winner and not winner["recipe"]["tensors"] and result["status"] == "pass":
        searched = any(c["recipe"]["tensors"] for c in result["candidates"])
        lines += ["no mix that was searched is better than this stock preset"] if searched else []
    if "rounds are the most" in result["reason"]:
        lines.append(f"the search ended at its limit of rounds: {result['reason']}")
    return lines


def smallest_type(study: Study) -> str:
    """Return the type of planner.types with the fewest bits per weight; "" where one is unknown."""
    try:
        return min(study.planner.types, key=bits_per_weight)
    except (KeyError, ValueError):  # a preset, which is a mix of types
        return ""


def next_lines(result: ResultJson) -> list[Line]:
    """Return the commands that one runs next."""
    winner = result["winner"]
    if result["status"] == "impossible" or not winner:
        return [("Next", "doit estimate --devices      which devices can run this model")]
    if result["status"] == "fail":
        option = limit_option(result, winner)
        return [("Next", f"relax {option}, or take a smaller model or a larger device")]
    if model_file(winner)["path"] != "model.gguf":
        return [("Next", 'doit ab prompt="Hello"       compare answers with the original')]
    return [
        ("Next", 'doit ab prompt="Hello"       compare answers with the original'),
        ("Then", "doit export_ollama           package it for Ollama"),
    ]


def limit_option(result: ResultJson, winner: CandidateJson) -> str:
    """Return the option that sets the limit that the winner misses most."""
    metric = winner["verdict"]["violated"][0][0]
    return next(c["option"] for c in result["goal"]["constraints"] if c["metric"] == metric)
