"""Take steps and rounds from the shared store before they are made, and give them to it afterwards.

A planner's proposals follow from what was measured, but also from earlier studies' lessons and from
a language model's replies, which another machine doesn't have. So a round is shared like a step:
its key is the study, the rounds before it and everything that has come of their steps. Who comes
second takes the first one's round.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from sintra import __version__
from sintra.build.graph import Graph
from sintra.build.run_state import say
from sintra.build.step import Step
from sintra.config.study import identity_of
from sintra.core.artifact import Artifact
from sintra.core.canonical import canonical, sha256
from sintra.store.files import unique_name
from sintra.store.store import Outcome, Store
from sintra.study import round_files, rounds
from sintra.study.round_checks import check_progress, check_round
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

if TYPE_CHECKING:
    from sintra.store.remote.shared import SharedStore

ROUND_VERSION = 1  # of a round's action
ROUND_FILE = "round.json"  # of a round's artifact
LARGEST_ROUND = 8 << 20  # bytes of a round's file
Action = dict[str, Any]  # what a key is the digest of


def make_step(
    step: Step, store: Store, shared: SharedStore | None, build: Callable[[], None]
) -> Literal["pulled", "built"]:
    """Put a step's outcome into the cache and return where it came from.

    It is "pulled" where others had it, else "built", and then the others get it too; what is run
    comes from others only where entries carry an HMAC. build: makes the step here; what it raises
    passes through. Raises Transient, UserError.
    """
    key = step.key(store)
    if shared is None or key is None or not shared.shares(step.plugin):
        build()
        return "built"
    if shared.pull(store, key, step.name, step.accepts) is not None:
        return "pulled"
    build()
    names = {k: above.name for above in step.all() if (k := above.key(store)) and k != key}
    shared.push_inputs(store, names)
    if shared.push(store, key, step.name) == "lost":
        step.cached.clear()  # another was faster and made something else: that counts from now on
        say(f"taken   {step.name}: another machine was faster")
    return "built"


def round_action(workspace: Workspace, graph: Graph, earlier: list[Round]) -> Action | None:
    """Return what the round after the earlier ones is made of.

    Return None where it can't be shared: a replay, a fault that may pass, or a step that hasn't
    been made.
    """
    store = workspace.store
    if (
        workspace.study.planner.name == "replay"
        or store.failed_this_run
        or any(r.again for r in earlier)
    ):
        return None
    steps = {step.name: step for r in earlier for step in rounds.round_steps(graph, r)}
    outcomes = {
        (step.key(store) or "", outcome_digest(step.outcome(store))) for step in steps.values()
    }
    if any(digest is None for _, digest in outcomes):
        return None
    params = {
        "study": _study_params(workspace),
        "model": graph.source.digest,
        "sources": _source_digests(graph),
        "past": [sha256(canonical(r.to_json())) for r in earlier],
        "outcomes": sorted(outcome for outcome in outcomes if outcome[0]),
    }
    return {
        "schema": 1,
        "stage": "round",
        "version": ROUND_VERSION,
        "tools": {"sintra": __version__},
        "params": {"number": len(earlier) + 1, "digest": sha256(canonical(params))},
        "inputs": {},
    }


def _study_params(workspace: Workspace) -> dict[str, object]:
    """Return the study without what another machine writes otherwise."""
    return identity_of(workspace.study)


def _source_digests(graph: Graph) -> dict[str, str]:
    """Return the digests of texts and tasks; one of lm-eval's own tasks stands by its name."""
    texts = {role: source.digest for role, source in sorted(graph.texts.items())}
    tasks = {
        f"task:{name}": source.digest if source else name
        for name, source in sorted(graph.task_files.items())
    }
    return texts | tasks


def outcome_digest(outcome: Outcome | None) -> str | None:
    """Return the digest of an outcome; None where there is none."""
    if outcome is None:
        return None
    return outcome.digest if isinstance(outcome, Artifact) else sha256(canonical(asdict(outcome)))


def pull_round(workspace: Workspace, graph: Graph, earlier: list[Round]) -> Round | None:
    """Return the next round as the shared store has it.

    Return None where there is no shared store, or no round in it.
    """
    shared = workspace.shared
    action = round_action(workspace, graph, earlier) if shared else None
    if shared is None or action is None:
        return None
    number = len(earlier) + 1
    if number >= rounds.round_limit(workspace.study):
        return None  # the study ends here whatever others have planned
    outcome = shared.pull(workspace.store, sha256(canonical(action)), _round_name(number))
    return read_round(workspace, outcome, earlier)


def _round_name(number: int) -> str:
    """Return what a round is called in messages and entries."""
    return f"round:{number:02}"


def read_round(workspace: Workspace, outcome: Outcome | None, earlier: list[Round]) -> Round | None:
    """Return the round in an artifact; None where there is none that passes the checks.

    earlier: the rounds that it follows.
    """
    store, number = workspace.store, len(earlier) + 1
    if not isinstance(outcome, Artifact):
        return None
    try:
        if sum(file.size for file in outcome.files) > LARGEST_ROUND:
            raise ValueError("it is too large")
        planned = check_round(store.read_json(outcome, ROUND_FILE), number)
        check_progress(planned, earlier, workspace.study.formats)
        return planned
    except (
        StopIteration,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        say(
            f"refused {_round_name(number)} of the shared store: it is not a round "
            f"({type(error).__name__}: {str(error)[:80]!r})"
        )
        return None


def share_round(workspace: Workspace, graph: Graph, earlier: list[Round], planned: Round) -> Round:
    """Give the round after the earlier ones to the others.

    Return the round that counts, which is theirs where they were faster. Raises Transient where the
    disk is full.
    """
    shared = workspace.shared
    if shared is None or not shared.writable or planned.again:
        return planned
    action = round_action(workspace, graph, earlier)
    if action is None:
        return planned
    store, number, key = workspace.store, len(earlier) + 1, sha256(canonical(action))
    publish_round(store, key, action, planned, number)
    shared.push(store, key, _round_name(number))
    return read_round(workspace, store.lookup(key), earlier) or planned


def publish_round(store: Store, key: str, action: Action, planned: Round, number: int) -> None:
    """Write a round into the cache as an artifact. Raises Transient where the disk is full."""
    folder = store.folder("tmp") / f"{key}.{unique_name()}"
    folder.mkdir()
    try:
        (folder / ROUND_FILE).write_text(canonical(planned.to_json()) + "\n")
        artifact = store.put_tree(folder)
        store.publish(
            key, artifact, {"step": _round_name(number), "stage": "round", "action": action}
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def share_rounds(workspace: Workspace, graph: Graph) -> None:
    """Give every recorded round of a study to the others.

    That is what `doit push` does for a study that was made alone.
    """
    recorded = round_files.read_rounds(workspace)
    for index, planned in enumerate(recorded):
        share_round(workspace, graph, recorded[:index], planned)
