"""`doit push` and `doit pull`: what a cache and a shared store lack of each other's."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sintra.build.console import say
from sintra.build.graph import Graph
from sintra.core.errors import Transient
from sintra.core.types import Artifact
from sintra.store.remote.objects import Unreachable
from sintra.store.remote.shared import Shared, required, shareable
from sintra.study import pinning, round_files, rounds, sharing
from sintra.study.workspace import Workspace

AT_ONCE = 4
OFTEN_S = 5.0
T = TypeVar("T")


def push(workspace: Workspace) -> bool:
    """Everything of the cache that the shared store lacks, and the rounds of the study at hand.
    Raises UserError, Transient.
    """
    shared = required(workspace.store.shared, write=True)
    there = listed(shared)
    if workspace.pinned():
        sharing.study_rounds(workspace, workspace.graph())
    names = {
        str(r["key"]): str(r.get("step"))
        for r in workspace.store.records()
        if shareable(r) and r["key"] not in there
    }
    found = Counter(
        each(names, lambda key: shared.push(workspace.store, key, names[key]), "pushed")
    )
    for key in (k for k in names if workspace.store.lookup(k) is None):
        say(f"not shared: {names[key]}: it is damaged here (`doit verify` says more)")
    end(shared)
    kept = f"; {found['kept']} not shared" if found["kept"] else ""
    print(
        f"pushed {found['pushed']} results, {shared.moved['up'] / 1e6:.1f} MB; "
        f"{len(there) + found['there']} were there{kept}"
    )
    if found["lost"]:
        print(f"{found['lost']} had been made by others meanwhile: theirs are here now")
    return not found["kept"]


def pull(workspace: Workspace, everything: bool) -> bool:
    """What the shared store has of the study at hand, or all that it has. Raises UserError,
    Transient.
    """
    shared = required(workspace.store.shared, write=False)
    if everything:
        keys = [k for k in sorted(listed(shared)) if workspace.store.lookup(k) is None]
        got = sum(each(keys, lambda key: shared.pull(workspace.store, key) is not None, "pulled"))
        end(shared)
        print(
            f"pulled {got} results, {shared.moved['down'] / 1e6:.1f} MB; {len(keys) - got} could "
            "not be had"
        )
        return got == len(keys)
    listed(shared, most=1)
    got, lacking = study(workspace, shared)
    end(shared)
    print(f"pulled {got} results, {shared.moved['down'] / 1e6:.1f} MB")
    print(
        f"{lacking} is the first step that isn't there: the next `doit optimize` goes on from it"
        if lacking
        else "nothing is left to build for this study"
    )
    return True


def study(workspace: Workspace, shared: Shared) -> tuple[int, str | None]:
    """Follow a study as far as the shared store knows it: how many results came, and the first step
    or round that didn't.
    """
    if workspace.pinned() is None:
        pinning.resolve_hub(
            workspace.store, workspace.conf["model"]["source"], workspace.conf["model"]["revision"]
        )
    graph, recorded, got = workspace.graph(), round_files.read_rounds(workspace), 0
    for number in itertools.count():
        known = recorded[:number]
        if number == len(recorded):
            given = sharing.recalled(workspace, graph, known)
            if given is None:
                return got, f"round {number + 1}"
            round_files.write_round(workspace, given)
            recorded.append(given)
        count, lacking = steps(workspace, shared, graph, recorded[number])
        got += count
        if lacking or recorded[number].is_last:
            rounds.write_keys(workspace, graph, recorded)
            return got, lacking
    raise AssertionError("a study ends")


def steps(
    workspace: Workspace, shared: Shared, graph: Graph, given: round_files.Round
) -> tuple[int, str | None]:
    """Pull the steps of a round, inputs first: how many came, and the first that is nowhere."""
    got, lacking = 0, None
    for step in rounds.round_steps(graph, given):
        if step.outcome(workspace.store) is not None:
            continue
        key = step.key(workspace.store)
        if key is not None and (found := shared.pull(workspace.store, key, step.name)) is not None:
            got += 1
            size = (
                f"{sum(f.size for f in found.files) / 1e6:.1f} MB"
                if isinstance(found, Artifact)
                else found.kind
            )
            say(f"pulled  {step.name}  {size}")
        else:
            lacking = lacking or step.name
    return got, lacking


def listed(shared: Shared, most: int | None = None) -> set[str]:
    """The keys that the shared store has. Raises UserError, Transient where it can't be reached."""
    try:
        return set(itertools.islice(shared.objects.keys(), most))
    except Unreachable as error:
        raise Transient(f"the shared store {shared.where.url} can't be used: {error}") from None


def end(shared: Shared) -> None:
    """Raises Transient where it went away in the middle."""
    if shared.why_not:
        raise Transient(
            "the shared store went away: what has been moved is there, the same command goes on"
        )


def each(keys: Iterable[str], function: Callable[[str], T], what: str) -> list[T]:
    """A function of every key, several at once, with a line of progress now and then."""
    keys, found, told = list(keys), [], time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for result in pool.map(function, keys):
            found.append(result)
            if time.monotonic() - told > OFTEN_S:
                told = time.monotonic()
                say(f"{what} {len(found)} of {len(keys)}")
    return found
