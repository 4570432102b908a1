"""From the store to what a planner is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.config.compose import conf_dirs
from sintra.core.recipe import Recipe
from sintra.core.types import Artifact, Candidate, Failure, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.hardware.estimate.estimate import Shape
from sintra.planning.state import ADVISER, EXPLORER, History, Pair, Seen
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store

RESAMPLES = 1000
ADVISED = ("llm", "hybrid")
Say = Callable[[str], None]
_advisors: dict[tuple[str, bool], Any] = {}


def history(
    graph: Graph,
    store: Store,
    given: list[list[Proposal]],
    candidates: list[Candidate],
    say: Say | None,
) -> History:
    """Everything known after some rounds' proposals. say: a line for the user; without it nobody
    outside is asked.
    """
    proposals = [p for row in given for p in row]
    made = {
        p.recipe: graph.quantize(p.recipe).outcome(store) for p in proposals if p.level == "build"
    }
    uniform = [r for r, outcome in made.items() if r.uniform and isinstance(outcome, Artifact)]
    files = {
        r: f.size
        for r, o in made.items()
        if isinstance(o, Artifact)
        for f in o.files
        if f.path == "model.gguf"
    }
    base = graph.convert().outcome(store)
    layout = store.read_json(base, "layout.json") if isinstance(base, Artifact) else None
    sizes, shape = measures(graph, store, uniform)
    architecture = layout["architecture"] if layout else ""
    return History(
        candidates=tuple(candidates),
        sizes=sizes,
        shape=shape,
        bytes_of=files,
        layers=layout["shape"]["layers"] if layout else None,
        architecture=architecture,
        advice=sum(p.author in (ADVISER, EXPLORER) and p.level == "search" for p in proposals),
        say=say or (lambda text: None),
        **adviser(graph, store, architecture, say),
        failed=frozenset(r for r, outcome in made.items() if isinstance(outcome, Failure)),
        distortion={r: d for r in uniform if (d := distortion(graph, store, r))},
        seen=tuple(s for p in proposals if (s := seen(graph, store, p.recipe, p.level))),
        tried=frozenset((p.recipe, p.level) for p in proposals),
        last=tuple(given[-1]) if given else (),
        paired=pairs(graph, store),
        influence=influence(graph, store),
        pockets=pockets(graph.root, architecture),
    )


def adviser(graph: Graph, store: Store, architecture: str, say: Say | None) -> dict[str, Any]:
    """The study's language model and what only it is told, where the planner takes advice."""
    if graph.study.planner.name not in ADVISED:
        return {}
    from sintra.planning.llm.advisor import Advisor

    folder = store.root / "studies" / graph.study.id
    key = (str(folder), say is not None)
    if key not in _advisors:
        kept = store.root / "meta" / "replies"
        options = graph.study.planner
        _advisors[key] = Advisor.of(
            options, folder, kept, say or (lambda text: None), say is not None
        )
    return {
        "knowledge": knowledge(graph.root, architecture),
        "ask": _advisors[key].ask,
        "hush": _advisors[key].hush,
    }


def knowledge(root: Path, architecture: str) -> tuple[str, ...]:
    """What conf/arch says of an architecture, in sentences."""
    return tuple(line for text in arch(root, architecture) for line in text["knowledge"])


def pockets(root: Path, architecture: str) -> tuple[float, ...]:
    """Depths, from 0 to 1, at which conf/arch says that blocks lose least."""
    return tuple(float(p) for text in arch(root, architecture) for p in text.get("pockets", ()))


def arch(root: Path, architecture: str) -> Iterator[dict[str, Any]]:
    """What the files of an architecture hold, the user's own behind the project's."""
    import yaml

    for folder in conf_dirs(root):
        path = folder / "arch" / f"{architecture}.yaml"
        if path.is_file():
            yield yaml.safe_load(path.read_text())


def measures(
    graph: Graph, store: Store, uniform: list[Recipe]
) -> tuple[MixSizes | None, Shape | None]:
    """How large a mix is, and the architecture: from any uniform file."""
    for recipe in uniform:
        outcome = graph.quantize(recipe).outcome(store)
        if isinstance(outcome, Artifact):
            layout = store.read_json(outcome, "layout.json")
            file = next(f for f in outcome.files if f.path == "model.gguf")
            return MixSizes.of(layout, file.size), Shape.of(layout)
    return None, None


def distortion(graph: Graph, store: Store, recipe: Recipe) -> dict[str, dict[str, float]] | None:
    """A uniform file's distortion, tensor by tensor."""
    found = _artifact(graph.distortion(recipe), store)
    return None if found is None else dict(store.read_json(found, "distortion.json"))


def influence(graph: Graph, store: Store) -> tuple[float, ...]:
    """Each block's, where the curvature has been measured."""
    found = _artifact(graph.curvature(), store)
    return () if found is None else tuple(store.read_json(found, "curvature.json")["influence"])


def seen(graph: Graph, store: Store, recipe: Recipe, level: str) -> Seen | None:
    """A recipe's numbers on one text, where they have been measured."""
    variant = graph.variant(recipe, level)
    found = _artifact(variant.quality, store) if variant.quality else None
    if found is None:
        return None
    made = [found, *(t for s in variant.tasks if (t := _artifact(s, store)))]
    return Seen(
        recipe,
        level,
        {
            m.metric: m
            for f in made
            for m in parse_measurements(store.read_json(f, MEASUREMENTS_FILE))
        },
    )


def pairs(graph: Graph, store: Store) -> Pair:
    """The comparison of two recipes on the search text."""

    def compared(one: Recipe, two: Recipe) -> tuple[float, float] | None:
        import numpy as np

        means: list[Any] = []
        for recipe in (one, two):
            quality = graph.variant(recipe, "search").quality
            found = _artifact(quality, store) if quality else None
            if found is None:
                return None
            file = next(f for f in found.files if f.path == "kld.npy")
            means.append(np.load(store.blob_path(file.sha256)).astype(np.float64).mean(1))
        gap = means[0] - means[1]
        draws = np.random.default_rng(graph.study.seed).integers(0, len(gap), (RESAMPLES, len(gap)))
        return float(gap.mean()), float(gap[draws].mean(1).std(ddof=1))

    return compared


def _artifact(step: Step, store: Store) -> Artifact | None:
    outcome = step.outcome(store)
    return outcome if isinstance(outcome, Artifact) else None
