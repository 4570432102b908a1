"""Exchange what a cache and a shared store lack of each other's: `doit push` and `doit pull`."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sintra.build.graph import Graph
from sintra.build.run import run_step
from sintra.build.run_state import say
from sintra.build.step import Step
from sintra.core.artifact import Artifact
from sintra.core.errors import Transient
from sintra.store.remote.objects import Unreachable
from sintra.store.remote.shared import SharedStore, is_shareable, require_shared_store
from sintra.store.store import Outcome
from sintra.study import pinning, round_files, rounds, sharing
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

AT_ONCE = 4  # results that are moved at a time
PROGRESS_S = 5.0  # seconds between two lines of progress
T = TypeVar("T")


def push(workspace: Workspace) -> bool:
    """Push everything of the cache that the shared store lacks, and the rounds of the study.

    Return whether all of it could be shared. Raises UserError, Transient.
    """
    shared, store = require_shared_store(workspace.shared, write=True), workspace.store
    present = list_keys(shared)
    if workspace.pinned():
        sharing.share_rounds(workspace, workspace.graph())
    names = {
        entry["key"]: str(entry.get("step"))
        for entry in store.read_entries()
        if is_shareable(entry, shared.secret) and entry["key"] not in present
    }
    results = map_with_progress(names, lambda key: shared.push(store, key, names[key]), "pushed")
    count = Counter(results)
    for key in (k for k in names if store.lookup(k) is None):
        say(f"not shared: {names[key]}: it is damaged here (`doit verify` says more)")
    check_still_usable(shared)
    kept = f"; {count['kept']} not shared" if count["kept"] else ""
    print(
        f"pushed {count['pushed']} results, {shared.pushed_bytes / 1e6:.1f} MB; "
        f"{len(present) + count['there']} were there{kept}"
    )
    if count["lost"]:
        print(f"{count['lost']} had been made by others meanwhile: theirs are here now")
    return not count["kept"]


def pull(workspace: Workspace, everything: bool) -> bool:
    """Pull what the shared store has of the study at hand, or all that it has.

    Return whether all of it could be had. Raises UserError, Transient.
    """
    shared = require_shared_store(workspace.shared, write=False)
    return pull_everything(workspace, shared) if everything else pull_study(workspace, shared)


def pull_everything(workspace: Workspace, shared: SharedStore) -> bool:
    """Pull every result that the cache lacks; return whether all could be had. Raises Transient."""
    store = workspace.store
    keys = [key for key in sorted(list_keys(shared)) if store.lookup(key) is None]
    pulled = sum(map_with_progress(keys, lambda key: shared.pull(store, key) is not None, "pulled"))
    check_still_usable(shared)
    print(
        f"pulled {pulled} results, {shared.pulled_bytes / 1e6:.1f} MB; {len(keys) - pulled} could "
        "not be had"
    )
    return pulled == len(keys)


def pull_study(workspace: Workspace, shared: SharedStore) -> bool:
    """Pull the study's results, and say what is missing. Raises UserError, Transient."""
    list_keys(shared, limit=1)  # says at once where it can't be reached
    pulled, missing = pull_rounds(workspace, shared)
    check_still_usable(shared)
    print(f"pulled {pulled} results, {shared.pulled_bytes / 1e6:.1f} MB")
    print(
        f"{missing} is the first step that isn't there: the next `doit optimize` goes on from it"
        if missing
        else "nothing is left to build for this study"
    )
    return True


def pull_rounds(workspace: Workspace, shared: SharedStore) -> tuple[int, str | None]:
    """Follow a study round by round as far as the shared store has it.

    Return how many results came, and the first step or round that didn't. Raises UserError,
    Transient.
    """
    model = workspace.config.model
    if workspace.pinned() is None:
        pinning.resolve_hub(workspace.store, model.source, model.revision)
    graph, recorded, pulled = workspace.graph(), round_files.read_rounds(workspace), 0
    for index in itertools.count():
        if index == len(recorded):
            following = sharing.pull_round(workspace, graph, recorded)
            if following is None:
                return pulled, f"round {index + 1}"
            round_files.write_round(workspace, following)
            recorded.append(following)
        count, missing = pull_steps(workspace, shared, graph, recorded[index])
        pulled += count
        if missing or recorded[index].is_last:
            rounds.write_keys(workspace, graph, recorded)
            return pulled, missing
    raise AssertionError("a study ends")


def pull_steps(
    workspace: Workspace, shared: SharedStore, graph: Graph, recorded: Round
) -> tuple[int, str | None]:
    """Pull the steps of a round, inputs first.

    Return how many came, and the name of the first that is nowhere.
    """
    store, pulled, missing = workspace.store, 0, None
    for step in rounds.round_steps(graph, recorded):
        if step.outcome(store) is not None:
            continue
        key = step.key(store)
        if key is not None and not shared.shares(step.plugin):
            outcome = make_here(workspace, step)
        else:
            outcome = None if key is None else shared.pull(store, key, step.name, step.accepts)
        if outcome is None:
            missing = missing or step.name
        elif shared.shares(step.plugin):
            pulled += 1
            say(f"pulled  {step.name}  {describe_outcome(outcome)}")
    return pulled, missing


def make_here(workspace: Workspace, step: Step) -> Outcome | None:
    """Make what is run and so isn't taken from a store without a key; None where that fails."""
    try:
        run_step(step, workspace.store, workspace.policy, say)
    except Transient as error:
        say(f"not made: {error}")
        return None
    say(f"built   {step.name}: what is run isn't taken from a store without SINTRA_STORE_KEY")
    return step.outcome(workspace.store)


def describe_outcome(outcome: Outcome) -> str:
    """Return an artifact's size, or the kind of a failure."""
    if isinstance(outcome, Artifact):
        return f"{sum(file.size for file in outcome.files) / 1e6:.1f} MB"
    return outcome.kind


def list_keys(shared: SharedStore, limit: int | None = None) -> set[str]:
    """Return the keys that the shared store has, at most `limit` of them.

    Raises UserError, and Transient where it can't be reached.
    """
    try:
        return set(itertools.islice(shared.objects.list_keys(), limit))
    except Unreachable as error:
        raise Transient(f"the shared store {shared.address.url} can't be used: {error}") from None


def check_still_usable(shared: SharedStore) -> None:
    """Raise Transient where the shared store went away in the middle."""
    if shared.unusable_because:
        raise Transient(
            "the shared store went away: what has been moved is there, the same command goes on"
        )


def map_with_progress(keys: Iterable[str], function: Callable[[str], T], action: str) -> list[T]:
    """Call a function on every key, several at once, with a line of progress now and then.

    action: what the line says was done, "pushed" or "pulled".
    """
    keys, results, printed = list(keys), [], time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(function, keys):
            results.append(result)
            if time.monotonic() - printed > PROGRESS_S:
                printed = time.monotonic()
                say(f"{action} {len(results)} of {len(keys)}")
    return results
