"""What a run says before it does something: what it is about, what a round holds, how long that may
take.
"""

from __future__ import annotations

from sintra.build.console import span
from sintra.build.explain import usual
from sintra.build.graph import Graph
from sintra.planning.bounds import in_units
from sintra.planning.other_formats import left_out
from sintra.store import history
from sintra.store.store import Store
from sintra.study import rounds
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

NAMED = 4


def summary(given: Round) -> str:
    """A round in a line: the variants by name, or the first of many, or why there is none."""
    proposed = given.proposals
    named = [f"{p.recipe.name} ({p.level})" for p in proposed]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    why = f": {proposed[-1].why}" if more or len(named) == 1 else ""
    return ", ".join(named[:NAMED]) + more + why if named else str(given.stop)


def intro(workspace: Workspace) -> str:
    """What is about to happen, and how to stop it."""
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
    return "\n".join(
        [
            first,
            *left_out(study),
            expected(workspace),
            "stop with Ctrl-C; the same command goes on where it stopped",
        ]
    )


def expected(workspace: Workspace) -> str:
    """How long it will take, as far as this cache's history tells."""
    own = [
        r
        for r in history.times(workspace.store.root / "history.db")
        if r["model"] == workspace.study.model
    ]
    if not own:
        return (
            "how long isn't known yet: nothing of this model has been timed here; each round says "
            "what it expects"
        )
    most = max(own, key=lambda r: float(r["wall_s"]))
    return (
        f"the longest study of {workspace.study.model} here took {span(most['wall_s'])} "
        f"({most['built']} steps built); what is in the cache takes none"
    )


def ahead(graph: Graph, store: Store, given: Round) -> tuple[int, float]:
    """How many of a round's steps are to be built, and the seconds that such steps usually take,
    where that is known.
    """
    left = [s for s in rounds.round_steps(graph, given) if s.outcome(store) is None]
    known = usual(store) if left else {}
    return len(left), sum(known.get(s.stage, 0.0) for s in left)
