"""A study run by the product's own planner, graph, store and workers, but for doit, speeds and
memory: what quality needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sintra.build.graph import Graph
from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, Failure
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate
from sintra.store.store import Store
from sintra.study import rounds
from sintra.study.candidates import collect_candidates
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace, open_workspace

ROOT = Path(__file__).resolve().parent.parent


def opened(cache: Path, *raw: str) -> Workspace:
    """A study of this repository with a cache of its own."""
    return open_workspace(ROOT, [f"store.path={cache}", *raw])


def texts(folder: Path, own: bool = False) -> list[str]:
    """Overrides for a folder of texts; the second text is left out. own: the model writes what it
    is calibrated on and what ranks; only the report text is of the folder.
    """
    paths = {r: f"{(folder / r).resolve()}.txt" for r in ("calibration", "search", "report")}
    if own:
        paths |= {"calibration": "own", "search": "own"}
    return [f"texts.{role}={path}" for role, path in paths.items()] + ["texts.second=null"]


def build(steps: list[Step], store: Store) -> None:
    """Make what isn't there yet, inputs first."""
    for step in steps:
        if step.stage not in ("speed", "memory") and step.outcome(store) is None:
            run_step(step, store)


def run(workspace: Workspace, graph: Graph, say: bool = True, decide: bool = True) -> list[Round]:
    """All rounds of a study, to its end; without `decide` until the first that would measure on the
    report text.
    """
    known: list[Round] = []
    while not known or not known[-1].is_last:
        known.append(rounds.next_round(graph, workspace.store, known))
        if not decide and any(p.level == "report" for p in known[-1].proposals):
            return known[:-1]
        for step in rounds.round_steps(graph, known[-1]):
            build([step], workspace.store)
        if say:
            print(
                (
                    f"    round {len(known)}: {len(known[-1].proposals)} proposals "
                    f"{known[-1].stop or ''}"
                ),
                file=sys.stderr,
            )
    return known


def kld(graph: Graph, store: Store, recipe: Recipe, level: str) -> Any:
    """Every position's divergence on a text, (windows, positions)."""
    import numpy as np

    step = graph.variant(recipe, level).quality
    assert step is not None
    build(list(step.all()), store)
    found = step.outcome(store)
    if isinstance(found, Failure):
        raise SystemExit(f"{step.name}: {found.message}")
    assert isinstance(found, Artifact)
    return np.load(
        store.blob_path(next(f.sha256 for f in found.files if f.path == "kld.npy"))
    ).astype(np.float64)


def size(graph: Graph, store: Store, recipe: Recipe) -> int:
    """Bytes of a recipe's file, made if need be."""
    step = graph.quantize(recipe)
    build(list(step.all()), store)
    found = step.outcome(store)
    assert isinstance(found, Artifact)
    return next(f.size for f in found.files if f.path == "model.gguf")


def candidates(workspace: Workspace, graph: Graph, known: list[Round]) -> list[Candidate]:
    """Everything measured."""
    return collect_candidates(graph, workspace.store, known)
