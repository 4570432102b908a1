"""Faults in a cache and a shared folder without a study around them, so that there can be many:
other kinds of file, rot, planted entries and rounds, gc beside publications.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .flips import flip
from .kinds import JSON_SHAPES, KINDS, put
from .lab import Tally

HANG_S = 60.0  # seconds for one fault
RESULTS = 6  # results of the small cache
PLACES = (
    "entry",
    "blob",
    "lock",
    "tmp",
    "entries' folder",
    "blobs' folder",
    "quarantine",
    "memory",
)
MEMORIES = ("meta/verified.json", "meta/digests.json", "history.db")
WORDS = (
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "x" * 100_000,
    "\x1b[2J",
    "../../x",
    [],
    {},
    [[]],
    "(a+)+$",
)


@contextlib.contextmanager
def watched(tally: Tally, what: str) -> Iterator[None]:
    """Count a fault; an error that isn't ours, or a hang, is a violation."""
    from sintra.core.errors import Transient, UserError

    tally.faults += 1
    start = time.monotonic()
    try:
        yield
    except (UserError, Transient) as error:
        if len(str(error).splitlines()) != 1:
            tally.wrong(what, [f"not one line: {error}"])
    except Exception as error:
        tally.wrong(what, [f"{type(error).__name__}: {str(error)[:200]}"])
    if time.monotonic() - start > HANG_S:
        tally.wrong(what, ["it took too long"])


def action(number: int) -> dict[str, Any]:
    """What the key of a result is the digest of."""
    return {"schema": 1, "stage": "made", "params": {"number": number}, "inputs": {}}


def key_of(number: int) -> str:
    """The key of a result."""
    from sintra.core.canonical import canonical, sha256

    return sha256(canonical(action(number)))


def publish(root: Path, number: int, text: str = "") -> Any:
    """Make a result of two files, one of them empty."""
    from sintra.store.store import Store

    store = Store(root)
    folder = store.folder("tmp") / f"{key_of(number)}.worker"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "deep").mkdir(parents=True)
    (folder / "f.txt").write_text(text or f"result {number}\n" * 100)
    (folder / "deep" / "empty").touch()
    about: Any = {"step": f"made:{number}", "stage": "made", "action": action(number)}
    return store.publish(key_of(number), store.put_tree(folder), about, folder=folder)


def place(root: Path, name: str, rng: random.Random) -> Path:
    """A path of the cache that something is done to."""
    from sintra.store.store import Store

    store, key = Store(root), key_of(rng.randrange(RESULTS))
    blobs = sorted((root / "cas").glob("??/*"))
    blob = rng.choice(blobs) if blobs else store.blob_path("0" * 64)
    return {
        "entry": store.entry_path(key),
        "blob": blob,
        "lock": root / "lock" / key,
        "tmp": root / "tmp" / f"{key}.{rng.randrange(10**9)}",
        "entries' folder": store.entry_path(key).parent,
        "blobs' folder": blob.parent,
        "quarantine": root / "quarantine",
        "memory": root / rng.choice(MEMORIES),
    }[name]


def kinds(folder: Path, tally: Tally, count: int, seed: int = 0) -> None:
    """A file or a folder of the cache is something else: it is a miss, and made again."""
    rng, root = random.Random(seed), folder / "kinds"
    made = {number: publish(root, number) for number in range(RESULTS)}
    for number in range(count):
        name, kind = PLACES[number % len(PLACES)], rng.choice((*KINDS, *JSON_SHAPES))
        what = f"{name} as {kind[:20]!r}"
        with watched(tally, what):
            put(place(root, name, rng), kind)
            tally.wrong(what, healed(root, made))


def rot(folder: Path, tally: Tally, count: int, seed: int = 0) -> None:
    """A byte of an entry or a blob changes, size and times stay: `verify` finds it, and what is
    read before that is as it was written, or a miss.
    """
    from sintra.store.store import Store

    rng, root = random.Random(seed), folder / "rot"
    made = {number: publish(root, number) for number in range(RESULTS)}
    for _ in range(count):
        files = [p for p in root.glob("[ac]*/??/*") if p.stat().st_size]
        what = flip(rng.choice(files), rng)
        with watched(tally, what):
            for number in range(RESULTS):
                found = Store(root).lookup(key_of(number))
                if found not in (None, made[number]):
                    tally.wrong(what, ["another result was read"])
            tally.wrong(what, healed(root, made))


def healed(root: Path, made: dict[int, Any]) -> list[str]:
    """Look everything up, make what is a miss, verify, and make again: then nothing may be left of
    a fault.
    """
    from sintra.store import history, maintenance
    from sintra.store.store import Store
    from sintra.study.pinning import Digests

    wrong = []
    Store(root).sweep_tmp()
    for _ in range(2):
        for number, outcome in made.items():
            with Store(root).lock(key_of(number)):
                if Store(root).lookup(key_of(number)) is None and publish(root, number) != outcome:
                    wrong.append("another result came out")
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            maintenance.verify_cache(root, Store(root), True)
    Digests(root / "meta" / "digests.json").file(Path(__file__))
    with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
        history.read_results(root / "history.db")
    for number, outcome in made.items():
        if Store(root).lookup(key_of(number)) != outcome:
            publish(root, number)
    wrong += ["a result is lost" for n, o in made.items() if Store(root).lookup(key_of(n)) != o]
    return wrong + [d.problem for d in maintenance.verify_blobs(Store(root))]


def shared_kinds(folder: Path, tally: Tally, count: int, seed: int = 0) -> None:
    """Other kinds of file, odd names and rot in a shared folder: the rest serves, nothing wrong is
    taken, and a push mends it.
    """
    from sintra.store.remote.address import Address
    from sintra.store.remote.shared import SharedStore
    from sintra.store.store import Store

    rng, there, one = random.Random(seed), folder / "shared", folder / "one"
    made = {number: publish(one, number) for number in range(RESULTS)}

    def opened() -> SharedStore:
        return SharedStore(Address(f"file://{there}", True), lambda line: None)

    for number in range(RESULTS):
        opened().push(Store(one), key_of(number))
    for index in range(count):
        files = sorted(p for p in there.glob("[ac]*/??/*") if p.is_file() and not p.is_symlink())
        kind = rng.choice((*KINDS, *JSON_SHAPES, "rot", "odd name"))
        victim = rng.choice(files)
        what = f"{victim.parent.parent.name} as {kind[:20]!r}"
        two = folder / f"two-{index}"
        with watched(tally, what):
            if kind == "rot" and victim.stat().st_size:
                flip(victim, rng)
            elif kind == "odd name":
                put(victim.with_name(rng.choice(("\udcff", "\x1b[2J", "a\\b", "%2f", " "))), "FIFO")
            else:
                put(victim, kind)
            shared = opened()
            for number, outcome in made.items():
                if shared.pull(Store(two), key_of(number)) not in (None, outcome):
                    tally.wrong(what, ["a wrong result was taken"])
            if shared.unusable_because:
                tally.wrong(what, [shared.unusable_because])
            list(shared.objects.list_keys())
            for number in range(RESULTS):
                if Store(two).lookup(key_of(number)) is None:
                    publish(two, number)
                shared.push(Store(two), key_of(number))
            fresh, three = opened(), Store(folder / "three")
            lost = [n for n, o in made.items() if fresh.pull(three, key_of(n)) != o]
            tally.wrong(what, [f"result {n} isn't mended" for n in lost])
        for name in (two, folder / "three"):
            shutil.rmtree(name, ignore_errors=True)


def planted_entries(folder: Path, tally: Tally, count: int, seed: int = 0) -> None:
    """Entries that somebody wrote into a shared folder without a key: none brings code, or files
    that its stage doesn't make.
    """
    from sintra.core import plugins
    from sintra.core.canonical import canonical, sha256
    from sintra.store.remote.address import Address
    from sintra.store.remote.objects import blob_name, entry_name
    from sintra.store.remote.shared import SharedStore
    from sintra.store.store import Store

    rng, there = random.Random(seed), folder / "planted"
    stages = sorted(plugins.own_names("stages", "probes"))
    names = (
        "model.gguf",
        "layout.json",
        "measurements.json",
        "kld.npy",
        "lock.json",
        "config.json",
    )
    names += ("modeling.py", "x.pth", "a.so", "sintra.trust_remote_code", "convert_hf_to_gguf.py")
    store = Store(folder / "reader")
    for index in range(count):
        stage = rng.choice(stages)
        params = {"number": index, "kind": rng.choice(("file", "hub", 5)), "digest": "0" * 64}
        act = {"schema": 1, "stage": stage, "params": params, "inputs": {}}
        files = []
        declared = [n + "x" * n.endswith("/") for n in plugins.load_step(stage).files]
        more = rng.sample(names, rng.randrange(len(names)) if rng.random() < 0.5 else 0)
        for name in dict.fromkeys((*(declared if rng.random() < 0.8 else ()), *more)):
            data = f"{name} {index}".encode()
            digest = sha256(data.decode())
            put(there / blob_name(digest), data.decode())
            files.append({"path": name, "size": len(data), "sha256": digest})
        key = sha256(canonical(act))
        entry = {"key": key, "action": act, "step": f"{stage}:x", "files": files}
        if rng.random() < 0.3:
            entry[rng.choice(list(entry))] = rng.choice(WORDS)
        put(there / entry_name(key), json.dumps(entry))
        with watched(tally, stage):
            shared = SharedStore(Address(f"file://{there}", True), lambda line: None)
            outcome: Any = shared.pull(store, key)
            if outcome is None:
                continue
            plugin, paths = plugins.load_step(stage), [f.path for f in outcome.files]
            if plugin.executed or not plugin.accepts(params, outcome):
                tally.wrong(stage, [f"taken with {paths}"])
            if any(re.search(r"\.(py|pth|so)$|trust_remote_code", p) for p in paths):
                tally.wrong(stage, [f"code was taken: {paths}"])
            tally.runs += 1
    tally.note = f"{tally.runs} well-formed ones were taken"
    tally.runs = 0


def planted_rounds(tally: Tally, count: int, seed: int = 0) -> None:
    """Rounds that somebody wrote: refused, or of names from closed lists and printable texts."""
    from sintra.core.recipe import Recipe, variant_slug
    from sintra.core.types import Proposal
    from sintra.formats.gguf.sizes import mix_patterns
    from sintra.study.round_checks import check_round
    from sintra.study.round_files import Round

    mix = {f"blk.{n}.ffn_up.weight": "Q2_K" for n in range(9)} | {"output.weight": "Q6_K"}
    recipe = Recipe("Q6_K", True, tensors=mix_patterns(mix))
    sound = Round(1, (Proposal(recipe, "why", "solver", "search", {"kld_mean": 0.1}, 0.5),))
    rng, taken = random.Random(seed), 0
    for _ in range(count):
        content = mutated(json.loads(json.dumps(sound.to_json())), rng)
        with watched(tally, "a round"):
            try:
                planned = check_round(content, 1)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue
            taken += 1
            for proposal in planned.proposals:
                name = variant_slug(proposal.recipe)
                if not proposal.why.isprintable() or len(proposal.why) > 4000 or "/" in name:
                    tally.wrong("a round", [f"{name}: {proposal.why[:80]!r}"])
    tally.note = f"{taken} were still sound"


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy in which one member is something else, is missing, or there twice."""
    data = copy.deepcopy(value)
    at, parents = data, []
    while isinstance(at, (dict, list)) and at and (not parents or rng.random() < 0.8):
        index = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        parents.append((at, index))
        at = at[index]
    if not parents:
        return rng.choice(WORDS)
    holder, index = parents[-1]
    if rng.random() < 0.2 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[index]))
    elif rng.random() < 0.1:
        del holder[index]
    else:
        holder[index] = rng.choice(WORDS)
    return data


def gc_beside(folder: Path, tally: Tally, count: int, seed: int = 0) -> None:
    """gc without end beside publications of what it wants to delete: what is published stays."""
    from sintra.store.maintenance import delete_unneeded
    from sintra.store.store import Store

    rng, root, stop, deleted = random.Random(seed), folder / "gc", threading.Event(), [0]

    def collect() -> None:
        while not stop.is_set():
            deleted[0] += delete_unneeded(Store(root), set()).blobs

    beside = threading.Thread(target=collect)
    beside.start()
    try:
        for _ in range(count):
            number = rng.randrange(3)
            with watched(tally, "gc beside a publication"):
                outcome = publish(root, number, f"text {rng.randrange(2)}\n")
                if Store(root).lookup(key_of(number)) != outcome:
                    tally.wrong("gc", ["finished work is lost"])
                age(root, outcome, key_of(number))
    finally:
        stop.set()
        beside.join()
    tally.note = f"{deleted[0]} blobs were deleted beside it"


def age(root: Path, outcome: Any, key: str) -> None:
    """Date an entry and its blobs two hours back."""
    from sintra.store.store import Store

    then = time.time() - 7200
    for path in (
        *(Store(root).blob_path(f.sha256) for f in outcome.files),
        Store(root).entry_path(key),
    ):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (then, then))


EXPERIMENTS: dict[str, tuple[Callable[..., None], int]] = {
    "other kinds of file": (kinds, 400),
    "rot, times unchanged": (rot, 200),
    "a shared folder": (shared_kinds, 200),
    "planted entries": (planted_entries, 400),
    "gc beside publish": (gc_beside, 400),
}
"""Name in the table -> experiment, and faults in the full form."""
