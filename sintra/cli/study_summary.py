"""What is printed of a study: what it is about, what each round holds, how it ended."""

from __future__ import annotations

from collections.abc import Mapping

from sintra.build.console import format_seconds
from sintra.build.explain import typical_seconds
from sintra.build.graph import Graph
from sintra.config.texts import OWN, judged_on_stories
from sintra.core.canonical import canonical
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate
from sintra.planning.bounds import in_units
from sintra.planning.other_formats import unsupported_format_lines
from sintra.results import table
from sintra.store import history
from sintra.store.store import Store
from sintra.study import round_files, rounds
from sintra.study.json_types import ResultJson
from sintra.study.workspace import Workspace

NAMED_PROPOSALS = 4  # of a round, in its line


def study_intro(workspace: Workspace) -> str:
    """Return what is about to happen, and how to stop it, in a few lines."""
    study = workspace.study
    limits = ", ".join(
        f"{c.metric} {c.op} {in_units(c.metric, c.limit)}" for c in study.goal.constraints
    )
    best = f"{study.goal.optimise} as {'low' if study.goal.sense > 0 else 'high'} as can be"
    first = (
        f"{study.model} for {study.hardware.title}: {best}, with {limits}"
        if limits
        else f"{study.model}: {best}"
    )
    last = "stop with Ctrl-C; the same command goes on where it stopped"
    lines = [first, *parts_left_out(workspace)]
    lines += [*text_lines(workspace), *unsupported_format_lines(study)]
    return "\n".join([*lines, expected_time(workspace), last])


def parts_left_out(workspace: Workspace) -> list[str]:
    """Return which parts of the model's folder aren't compressed, in a line."""
    from sintra.cli.commands.model import facts_of, left_out_lines  # not on the no-op path

    facts = facts_of(workspace)
    return left_out_lines(facts) if facts else []


def text_lines(workspace: Workspace) -> list[str]:
    """Return what there is to say of the texts: that the model writes them, or that they aren't of
    its kind.
    """
    texts, model = workspace.study.texts, workspace.study.model
    if judged_on_stories(workspace.config, texts):
        return [
            f"judged on the bundled models' stories, which say little about {model}: leave texts= "
            "out for text of its own, or give texts=FOLDER"
        ]
    own = [role for role, path in texts.paths.items() if path == OWN]
    if not own:
        return []
    words = " and ".join(filter(None, [", ".join(own[:-1]), own[-1]]))
    return [f"{words} text: what {model} writes itself (texts=FOLDER: yours)"]


def expected_time(workspace: Workspace) -> str:
    """Return how long the study will take, as far as this cache's history tells, in a line."""
    model = workspace.study.model
    runs = [
        r
        for r in history.read_run_times(workspace.store.root / "history.db")
        if r["model"] == model
    ]
    if not runs:
        return (
            "how long isn't known yet: nothing of this model has been timed here; each round says "
            "what it expects"
        )
    longest = max(runs, key=lambda r: float(r["wall_s"]))
    return (
        f"the longest study of {model} here took {format_seconds(longest['wall_s'])} "
        f"({longest['built']} steps built); what is in the cache takes none"
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
    result: ResultJson, candidates: list[Candidate], workspace: Workspace, mode: str
) -> None:
    """Print the end of a study, in the console's mode: a table, a line, or result.json."""
    if mode == "json":
        print(canonical(result))
        return
    if mode != "quiet":
        print(table.results_table(result, candidates, workspace.study.goal))
    print(table.advice_line(result))
    if mode == "quiet":
        return
    print(f"the whole of it, as a page: outputs/{result['study']}/report.html")
    if result["status"] != "pass" and (line := table.adviser_hint(workspace.study.planner.name)):
        print(line)
    for line in cost_lines(result):
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
