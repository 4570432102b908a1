"""One flipped byte in each kind of file that a cache and outputs/ hold."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from .lab import Lab, Reference, Tally, told

KINDS: dict[str, str] = {
    "blob": "cache/cas/??/*",
    "AC entry": "cache/ac/??/*.json",
    "doit's database": "cache/doit.db",
    "history": "cache/history.db",
    "round": "cache/studies/*/round-*.json",
    "keys of a study": "cache/studies/*/keys.json",
    "composed configuration": "cache/meta/compose/*.json",
    "known digests": "cache/meta/digests.json",
    "delivered model": "outputs/*/model.gguf",
    "result.json": "outputs/*/result.json",
    "rounds.json": "outputs/*/rounds.json",
    "recipe.yaml": "outputs/*/recipe.yaml",
    "manifest.json": "outputs/*/manifest.json",
}


def flip(path: Path, rng: random.Random) -> str:
    """Change one byte where it lies, without its times; returns where and what."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    old, data[at] = data[at], data[at] ^ (1 << rng.randrange(8))
    path.chmod(0o644)
    with path.open("r+b") as handle:  # the same inode, as on a rotting disk
        handle.seek(at)
        handle.write(data[at : at + 1])
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return f"byte {at} of {path.name[:20]}: {old:#x} -> {data[at]:#x}"


def each_kind(
    lab: Lab,
    ref: Reference,
    tally: Tally,
    times: int,
    seed: int = 0,
    kinds: Iterable[str] = KINDS,
    fresh: bool = True,
) -> None:
    """A byte is flipped in a finished study: the next run, `verify` and the run after that end with
    everything as it was.
    """
    rng = random.Random(seed)
    if fresh:
        lab.fresh()
    tally.wrong("the first run", told(lab.run(*lab.optimize), 0))
    tally.runs += 1
    for kind, glob in ((k, KINDS[k]) for k in kinds):
        for _ in range(times):
            files = sorted(
                p
                for p in lab.root.glob(glob)
                if p.is_file() and not p.parent.is_symlink() and p.stat().st_size
            )
            what = f"{kind}, {flip(rng.choice(files), rng)}"
            tally.faults += 1
            mended(lab, ref, tally, what)


def mended(lab: Lab, ref: Reference, tally: Tally, what: str) -> None:
    """Run, verify, run again: then nothing may be left of the damage."""
    tries: list[tuple[list[str], tuple[int, ...]]] = [
        (lab.optimize, (0, 1)),
        (["verify"], (0, 1)),
        (lab.optimize, (0,)),
    ]
    if "history" in what:
        tries.insert(0, (["history"], (0,)))
    for words, codes in tries:
        done = lab.run(*words)
        tally.runs += 1
        tally.wrong(f"{what}, {words[0]}", told(done, *codes))
    wrong = lab.sound() + lab.left()
    if lab.essence() != ref.essence:
        wrong.append("the result differs")
    if not ref.keys <= set(lab.entries()):
        wrong.append("entries are missing")
    tally.wrong(what, wrong + delivered(lab) + remembered(lab, ref))


def delivered(lab: Lab) -> list[str]:
    """Violations: files of outputs/ that aren't those that the manifest names."""
    from sintra.core.canonical import unsealed
    from sintra.store.files import hash_file

    out = (lab.root / "outputs" / "latest").resolve()
    manifest = unsealed((out / "manifest.json").read_bytes())
    if manifest is None:
        return ["the manifest is damaged"]
    return [
        f"outputs: {n} is damaged"
        for n, digest in manifest["files"].items()
        if hash_file(out / n) != digest
    ]


def remembered(lab: Lab, ref: Reference) -> list[str]:
    """Violations: the study's result isn't in the history."""
    base = sqlite3.connect(lab.cache / "history.db")
    try:
        rows = base.execute("SELECT COUNT(*) FROM result").fetchone()[0]
    except sqlite3.Error as error:
        return [f"the history can't be read: {error}"]
    finally:
        base.close()
    return [] if rows else ["the history is empty"]


def poisoned(lab: Lab, ref: Reference, tally: Tally, times: int, seed: int = 0) -> None:
    """A byte of an input is flipped before a step reads it: nothing may be published from it."""
    rng, wanted = random.Random(seed), r"^os\.mkdir cache/tmp/[0-9a-f]{64}\.[0-9a-f]{32}/?$"
    for number in range(times):
        lab.fresh()
        lab.run(*lab.optimize, fault={"match": wanted, "at": rng.randrange(2, 9), "do": "kill"})
        largest = sorted((lab.cache / "cas").glob("??/*"), key=lambda p: p.stat().st_size)[-3:]
        what = flip(rng.choice(largest), rng)
        tally.faults += 1
        done = lab.run(*lab.optimize)
        for _ in range(3):
            if done.returncode == 0:
                break
            tally.wrong(what, told(done, 1))
            done = lab.run(*lab.optimize)
            tally.runs += 1
        tally.runs += 2
        tally.wrong(f"{number}: {what}", told(done, 0))
        if lab.essence() != ref.essence:
            tally.wrong(f"{number}: {what}", ["the result was made from damaged bytes"])
