"""What is printed of a study: what it is about, what each round holds, how it ended."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sintra import __version__
from sintra.build.console import format_seconds
from sintra.build.explain import typical_seconds
from sintra.build.graph import Graph
from sintra.config.texts import OWN, judged_on_stories
from sintra.core.canonical import canonical
from sintra.core.metrics import find_metric
from sintra.core.recipe import Recipe
from sintra.core.stage import cores
from sintra.core.types import Candidate, Constraint
from sintra.formats.gguf.sizes import BLOCKS, PRESET_BITS
from sintra.planning.bounds import in_units
from sintra.planning.other_formats import unsupported_format_lines
from sintra.results import table
from sintra.results.ending import ending
from sintra.results.pages.words import format_bytes, metric_label
from sintra.store import history
from sintra.store.store import Store
from sintra.study import round_files, rounds
from sintra.study.expected_time import core_seconds, wall_seconds
from sintra.study.json_types import ResultJson
from sintra.study.workspace import Workspace

if TYPE_CHECKING:
    from sintra.formats.checkpoint.facts import FolderFacts

COLUMN = 10  # where what a line of the intro says begins
BYTES_16_BIT = 4  # per weight: the downloaded model, and its 16-bit GGUF
NAMED_PROPOSALS = 4  # of a round, in its line


def study_intro(workspace: Workspace) -> str:
    """Return what is about to happen, and how to stop it, within 80 columns."""
    from sintra.cli.commands.model import facts_of, left_out_lines  # not on the no-op path

    study = workspace.study
    goal, facts = study.goal, facts_of(workspace)
    metric = find_metric(goal.optimise)
    size = f", {facts.parameters / 1e6:.1f} M parameters" if facts else ""
    rows: list[tuple[str, str]] = [
        ("Goal", (metric.objective if metric else "") or f"the best {goal.optimise}"),
        ("Limits", " | ".join(map(limit_words, goal.constraints)) or "none"),
        ("Text", text_words(workspace)),
        ("Expected", expected_time(workspace, facts)),
        ("Disk", disk_words(workspace, facts)),
    ]
    head = f"Sintra {__version__} | {study.model}{size} | {study.hardware.title}"
    lines = [head, *(f"{name:<{COLUMN}}{words}" for name, words in rows)]
    lines += [*(left_out_lines(facts) if facts else []), *unsupported_format_lines(study)]
    lines.append("Ctrl-C is safe: the same command resumes.")
    return "\n".join(table.wrapped(lines, " " * COLUMN))


def limit_words(limit: Constraint) -> str:
    """Return a limit as `mean KL divergence <= 0.02 nats`."""
    value = in_units(limit.metric, limit.limit)
    return f"{metric_label(limit.metric)} {limit.op} {value}".replace(" ", "\xa0")


def text_words(workspace: Workspace) -> str:
    """Return which texts the model is calibrated and judged on."""
    texts, model = workspace.study.texts, workspace.study.model
    if judged_on_stories(workspace.config, texts):
        return (
            f"the bundled models' stories, which say little about {model}; leave texts= out for "
            "text of its own, or give texts=FOLDER"
        )
    own = [role for role, path in texts.paths.items() if path == OWN]
    if not own:
        names = dict.fromkeys(Path(path).name for path in texts.paths.values())
        return f"{', '.join(names)} (texts={workspace.config.texts.name})"
    words = " and ".join(filter(None, [", ".join(own[:-1]), own[-1]]))
    return f"{words}: written by {model} itself (texts=FOLDER: yours)"


def disk_words(workspace: Workspace, facts: FolderFacts | None) -> str:
    """Return how much the cache will hold at most, as far as it can be said, and what is free."""
    root = workspace.store.root
    while not root.exists():
        root = root.parent
    free = f"{shutil.disk_usage(root).free / 1e9:.0f} GB free"
    if facts is None:
        return f"not known before the model is downloaded | {free}"
    files = BYTES_16_BIT + sum(bits / 8 for bits in type_bits(workspace.study.planner.types))
    return f"about {format_bytes(files * facts.parameters)} or more (estimated) | {free}"


def type_bits(types: Sequence[str]) -> list[float]:
    """Return the bits per weight of each type that is known."""
    return [PRESET_BITS.get(t) or 8 * BLOCKS[t][1] / BLOCKS[t][0] for t in types if known(t)]


def known(kind: str) -> bool:
    """Return whether the bits of a type are known without loading anything."""
    return kind in PRESET_BITS or kind in BLOCKS


def expected_time(workspace: Workspace, facts: FolderFacts | None) -> str:
    """Return how long the study will take, in a line: by this cache's history, else by size."""
    model = workspace.study.model
    runs = [
        r
        for r in history.read_run_times(workspace.store.root / "history.db")
        if r["model"] == model
    ]
    if not runs:
        return time_by_size(workspace, facts)
    longest = max(runs, key=lambda r: float(r["wall_s"]))
    return (
        f"at most about {format_seconds(longest['wall_s'])}, as the longest study of {model} here "
        f"took ({longest['built']} steps); cached steps take no time"
    )


def time_by_size(workspace: Workspace, facts: FolderFacts | None) -> str:
    """Return how long the study of a model that was never timed here will take, in a line."""
    processor = core_seconds(workspace.study, facts.parameters) if facts else None
    if processor is None:
        return (
            "no study of this model was timed here; each round states its expected time "
            "(docs/costs.md: what other models took)"
        )
    count = cores()
    return (
        f"about {format_seconds(wall_seconds(processor, count))} on {count} "
        f"core{'s' * (count != 1)}, by the model's size (estimated; half or twice as long on other "
        "machines: docs/costs.md)"
    )


def round_summary(planned: round_files.Round, names: Mapping[Recipe, str]) -> str:
    """Return a round in a line: its variants by name, the first of many, or why there is none.

    names: of the study's variants.
    """
    proposals = planned.proposals
    words = [f"{names[p.recipe]} ({p.level})" for p in proposals]
    if not words:
        return str(planned.stop)
    more = f" and {len(words) - NAMED_PROPOSALS} more" if len(words) > NAMED_PROPOSALS else ""
    why = f": {proposals[-1].why}" if more or len(words) == 1 else ""
    return ", ".join(words[:NAMED_PROPOSALS]) + more + why


def remaining_work(graph: Graph, store: Store, planned: round_files.Round) -> tuple[int, float]:
    """Return how many of a round's steps are to be built, and the seconds that such steps usually
    take, where that is known.
    """
    to_build = [s for s in rounds.round_steps(graph, planned) if s.outcome(store) is None]
    usual_s = typical_seconds(store) if to_build else {}
    return len(to_build), sum(usual_s.get(s.stage, 0.0) for s in to_build)


def print_result(
    result: ResultJson,
    candidates: list[Candidate],
    workspace: Workspace,
    mode: str,
    show_all: bool = False,
) -> None:
    """Print the end of a study, in the console's mode: a table, a line, or result.json.

    show_all: the table has every candidate.
    """
    if mode == "json":
        print(canonical(result))
        return
    if mode == "quiet":
        print(table.advice_line(result))
        return
    study = workspace.study
    if candidates:
        print(f"{table.results_table(result, candidates, study.goal, show_all)}\n")
    print(ending(result, study))
    hint = table.adviser_hint(study.planner.name) if result["status"] != "pass" else ""
    for line in table.wrapped([hint, *cost_lines(result)]):
        print(line)


def cost_lines(result: ResultJson) -> list[str]:
    """Return what the run has cost: calls of a language model, steps, time."""
    steps, llm, lines = result["steps"], result["llm"], []
    if llm["calls"]:
        lines.append(
            f"language model: {llm['calls']} calls, {llm['tokens']} tokens, {llm['usd']:.4f} USD"
        )
    others = f"{steps['pulled']} from the shared store, " if "pulled" in steps else ""
    return [
        *lines,
        f"{steps['built']} steps built, {steps['cached']} from the cache, "
        f"{others}{steps['failed']} failed; {result['wall_s']} s",
    ]
