"""Steps and rounds through the shared store: taken from it before they are made, given to it
afterwards.

A planner's proposals follow from what it knows, but also from earlier studies' lessons and from a
language model's words, which another machine doesn't have. So a round is shared like a step: its
key is the study, the rounds before it and everything that has come of their steps; who comes second
takes the first one's round.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sintra import __version__
from sintra.build.console import say
from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core.canonical import canonical, sha256
from sintra.core.format import FORMATS
from sintra.core.types import Artifact
from sintra.store.files import unique
from sintra.store.store import Outcome, Store
from sintra.study import round_files, rounds
from sintra.study.workspace import Workspace

ROUND = 1
FILE = "round.json"
LONGEST = 2000  # characters of a pattern


def made(step: Step, store: Store, build: Callable[[], None]) -> str:
    """Have a step's outcome in the cache: "pulled" where others had it, else "built", and then the
    others have it too.
    """
    shared, key = store.shared, step.key(store)
    if shared is None or key is None:
        build()
        return "built"
    if shared.pull(store, key, step.name) is not None:
        return "pulled"
    build()
    shared.complete(store, {k: s.name for s in step.all() if (k := s.key(store)) and k != key})
    if shared.push(store, key, step.name) == "lost":
        step.found.clear()  # another was faster and made something else: that counts from now on
        say(f"taken   {step.name}: another machine was faster")
    return "built"


def action_of(
    workspace: Workspace, graph: Graph, known: list[round_files.Round]
) -> dict[str, Any] | None:
    """What the round after the known ones is made of; None where it can't be shared: a replay, a
    passing fault, or something that hasn't been made.
    """
    if (
        workspace.study.planner == "replay"
        or workspace.store.excused
        or any(r.again for r in known)
    ):
        return None
    study = {k: v for k, v in asdict(workspace.study).items() if k not in ("overrides", "texts")}
    sources = {role: s.digest for role, s in sorted(graph.texts.items())}
    sources |= {f"task:{name}": s.digest if s else name for name, s in sorted(graph.tasks.items())}
    steps = {s.name: s for r in known for s in rounds.round_steps(graph, r)}
    outcomes = {
        (s.key(workspace.store) or "", digest(s.outcome(workspace.store))) for s in steps.values()
    }
    if any(found is None for _, found in outcomes):
        return None
    params = {
        "study": study,
        "model": graph.source.digest,
        "sources": sources,
        "past": [plain(r) for r in known],
        "outcomes": sorted(o for o in outcomes if o[0]),
    }
    return {
        "schema": 1,
        "stage": "round",
        "version": ROUND,
        "tools": {"sintra": __version__},
        "params": {"number": len(known) + 1, "digest": sha256(canonical(params))},
        "inputs": {},
    }


def plain(given: round_files.Round) -> str:
    """The digest of a round."""
    return sha256(canonical(given.to_json()))


def digest(found: Outcome | None) -> str | None:
    """Of what has come of a step."""
    if found is None:
        return None
    return found.digest if isinstance(found, Artifact) else sha256(canonical(asdict(found)))


def recalled(
    workspace: Workspace, graph: Graph, known: list[round_files.Round]
) -> round_files.Round | None:
    """The next round as the shared store has it; None where there is no shared store or none in it."""
    shared = workspace.store.shared
    action = action_of(workspace, graph, known) if shared else None
    if shared is None or action is None:
        return None
    key, name = sha256(canonical(action)), f"round:{len(known) + 1:02}"
    return read(workspace.store, shared.pull(workspace.store, key, name), len(known) + 1, name)


def read(store: Store, found: Outcome | None, number: int, name: str) -> round_files.Round | None:
    """The round in an artifact; None where there is none that can be believed."""
    if not isinstance(found, Artifact):
        return None
    try:
        data = store.read_json(found, FILE)
        check(data, number)
        return round_files.Round.of_json(data)
    except (
        StopIteration,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        say(
            f"refused {name} of the shared store: it is no round ({type(error).__name__}: "
            f"{str(error)[:80]!r})"
        )
        return None


def check(given: Any, number: int) -> None:
    """Whether what somebody else has written can be a round. Raises ValueError, KeyError,
    TypeError, AttributeError.
    """
    if (
        given["round"] != number
        or not isinstance(given["stop"], (str, type(None)))
        or given.get("again")
    ):
        raise ValueError("its number or its end is wrong")
    for proposal in round_files.Round.of_json(given).proposals:
        recipe = proposal.recipe
        words = (
            recipe.type,
            recipe.kv,
            recipe.rounding,
            proposal.author,
            *(t for _, t in recipe.tensors),
        )
        if not all(
            isinstance(w, str) and w.replace("_", "").replace("-", "").isalnum() for w in words
        ):
            raise ValueError("a type is none")
        if recipe.format not in FORMATS or proposal.level not in (
            "build",
            "screen",
            "search",
            "report",
        ):
            raise ValueError("its format or level is unknown")
        if not isinstance(proposal.why, str):
            raise ValueError("its reason is none")
        if not all(p.isprintable() and len(p) <= LONGEST for p, _ in recipe.tensors):
            raise ValueError("a pattern is none")
        numbers = [*proposal.predicted.values(), proposal.confidence or 0.0]
        if not all(isinstance(n, (int, float)) and abs(n) < 1e30 for n in numbers):
            raise ValueError("what it foresees are no numbers")


def remember(
    workspace: Workspace,
    graph: Graph,
    known: list[round_files.Round],
    given: round_files.Round,
    action: dict[str, Any] | None = None,
) -> round_files.Round:
    """Give a round to the others; returns the one that counts, which is theirs where they were
    faster.
    """
    shared = workspace.store.shared
    action = action or (action_of(workspace, graph, known) if shared and not given.again else None)
    if shared is None or action is None or not shared.writable:
        return given
    key, name = sha256(canonical(action)), f"round:{len(known) + 1:02}"
    publish(workspace.store, key, name, action, given)
    shared.push(workspace.store, key, name)
    return read(workspace.store, workspace.store.lookup(key), len(known) + 1, name) or given


def publish(
    store: Store, key: str, name: str, action: dict[str, Any], given: round_files.Round
) -> None:
    """A round as an artifact."""
    folder = store.folder("tmp") / f"{key}.{unique()}"
    folder.mkdir()
    try:
        (folder / FILE).write_text(canonical(given.to_json()) + "\n")
        store.publish(
            key, store.put_tree(folder), {"step": name, "stage": "round", "action": action}
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def study_rounds(workspace: Workspace, graph: Graph) -> None:
    """Give every recorded round of a study to the others: what `doit push` does for a study that
    was made alone.
    """
    known = round_files.read_rounds(workspace)
    for number, given in enumerate(known):
        remember(workspace, graph, known[:number], given)
