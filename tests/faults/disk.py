"""A disk that is full at each write in turn, and a cache that can't be written."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .kills import finish
from .lab import Lab, Reference, Tally, pattern, site, told, whole

SIZE = "96m"


@contextlib.contextmanager
def mounted(lab: Lab) -> Iterator[bool]:
    """The lab's cache on a tmpfs of its own, where this machine lets one be mounted; yields whether
    it does.
    """
    lab.cache.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(lab.cache)]
    able = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield able
    finally:
        if able:
            subprocess.run(["umount", "-l", str(lab.cache)], check=True)


def sites(ref: Reference) -> list[str]:
    """Where the study writes into its cache, in the order in which it first does."""
    writes = [
        c
        for c in ref.changes
        if " cache/" in c and not c.startswith(("os.remove", "os.rmdir", "sqlite3"))
    ]
    return [pattern(place) for place in dict.fromkeys(site(c) for c in writes)]


def full(lab: Lab, ref: Reference, tally: Tally, most: int | None = None) -> None:
    """The disk is full from one write on; then there is room again and the same command goes on."""
    with mounted(lab) as able:
        do = "fill" if able else "limit"
        tally.note = (
            f"tmpfs of {SIZE}" if able else "RLIMIT_FSIZE 0 in the writing process: no mount here"
        )
        lab.fresh()
        places = sites(ref)
        for place in places[:: max(1, len(places) // most)] if most else places:
            done = lab.run(*lab.optimize, fault={"match": place, "do": do})
            tally.runs += 1
            if not lab.struck():
                free(lab)
                tally.wrong(place, told(done, 0) + whole(lab, ref))
                lab.fresh()
                done = lab.run(*lab.optimize, fault={"match": place, "do": do})
                tally.runs += 1
            tally.faults += lab.struck()
            free(lab)
            tally.wrong(place, told(done, 0, 1, 2) + lab.published() + lab.sound())
        finish(lab, ref, tally)


def free(lab: Lab) -> None:
    """Room again."""
    (lab.cache / ".filler").unlink(missing_ok=True)


def read_only(
    lab: Lab, ref: Reference, tally: Tally, states: tuple[str, ...] = ("empty", "half", "whole")
) -> None:
    """A cache that can be read and not written: everything in it serves, nothing in it changes,
    what lacks is said.
    """
    with mounted(lab) as able:
        if not able:
            tally.note = "needs the right to mount"
            return
        tally.note = "tmpfs mounted read-only"
        for state in states:
            lab.fresh()
            if state == "half":
                lab.run(
                    *lab.optimize, fault={"match": r"^os\.link cache/ac/", "at": 4, "do": "kill"}
                )
            if state == "whole":
                lab.run(*lab.optimize)
            before = tree(lab.cache)
            subprocess.run(["mount", "-o", "remount,ro", str(lab.cache)], check=True)
            try:
                tally.faults += 1
                for words, codes in (
                    (lab.optimize, (0,) if state == "whole" else (1, 2)),
                    (["verify"], (0,)),
                ):
                    done = lab.run(*words)
                    tally.runs += 1
                    tally.wrong(f"{state}, {words[0]}", told(done, *codes))
            finally:
                subprocess.run(["mount", "-o", "remount,rw", str(lab.cache)], check=True)
            tally.wrong(state, ["something changed"] if tree(lab.cache) != before else [])
            finish(lab, ref, tally)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change."""
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }
