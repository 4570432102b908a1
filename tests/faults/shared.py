"""Four processes on one cache, and clocks that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .kills import finish
from .lab import Lab, Reference, Tally, python_path, told, whole

STEPS, PROCESSES = 40, 4
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)
WORK = """
import random, sys
from pathlib import Path
from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, File
from sintra.store.files import hash_file
from sintra.store.store import Store
store, texts = Store(Path(sys.argv[1])), sorted(Path(sys.argv[2]).iterdir())
random.Random(int(sys.argv[3])).shuffle(texts)
for path in texts:
    digest = Artifact((File("text.txt", path.stat().st_size, hash_file(path)),)).digest
    step = Step("fetch", path.name, {"kind": "file", "digest": digest}, hints={"from": str(path)})
    run_step(step, store)
    assert step.outcome(store) is not None
"""


def forty(folder: Path, tally: Tally, rounds: int) -> None:
    """Four processes build the same forty steps in different orders: each is made once."""
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for number in range(STEPS):
        (texts / f"text-{number:02}").write_text(f"text {number}\n" * 1000)
    for number in range(rounds):
        cache, log = folder / f"shared-{number}", folder / f"log-{number}"
        fault = {"root": str(cache), "log": str(log), "match": None, "do": None}
        env = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "FAULT": json.dumps(fault),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", WORK, str(cache), str(texts)]
        running = [
            subprocess.Popen([*command, str(i)], env=env, stderr=subprocess.PIPE, text=True)
            for i in range(PROCESSES)
        ]
        errors = [p.communicate()[1] for p in running]
        tally.runs += PROCESSES
        tally.wrong(
            f"round {number}",
            [
                e.strip().splitlines()[-1]
                for p, e in zip(running, errors, strict=True)
                if p.returncode
            ],
        )
        tally.wrong(f"round {number}", once(cache, log))
    tally.note = f"{PROCESSES} processes, {STEPS} shared steps each time"


def once(cache: Path, log: Path) -> list[str]:
    """Violations: a step that was published more than once, or not at all, or isn't sound."""
    from sintra.store.maintenance import verify_blobs
    from sintra.store.store import Store

    links = [
        line
        for line in log.read_text().splitlines()
        if line.startswith("os.link") and "ac/" in line
    ]
    store = Store(cache)
    wrong = (
        [f"{len(links)} publications of {STEPS} steps"]
        if len(links) != STEPS or len(set(links)) != STEPS
        else []
    )
    wrong += [] if sum(1 for _ in store.read_entries()) == STEPS else ["not every step is there"]
    return wrong + [f"{w}: {f.path}" for f, w, _ in verify_blobs(store)]


def studies(lab: Lab, ref: Reference, tally: Tally) -> None:
    """Four `doit optimize` of one study at once, each in a project of its own, on one cache."""
    log = lab.root / "log"
    log.unlink(missing_ok=True)
    lab.fresh()
    before = len(lab.entries())
    others = [
        Lab(
            lab.root / f"beside-{n}",
            lab.model,
            lab.start,
            [*lab.options, f"store.path={lab.cache}"],
        )
        for n in range(PROCESSES)
    ]
    fault = {"root": str(lab.root), "log": str(log), "match": None, "do": None}
    running = [o.popen(*o.optimize, fault=fault) for o in others]
    for other, process in zip(others, running, strict=True):
        out, err = process.communicate()
        tally.runs += 1
        tally.wrong(
            "four studies",
            told(subprocess.CompletedProcess(["optimize"], process.returncode, out, err), 0),
        )
        if other.essence() != ref.essence.replace(str(lab.cache), str(other.cache)):
            tally.wrong("four studies", ["a result differs"])
    links = [x for x in log.read_text().splitlines() if x.startswith("os.link cache/ac/")]
    if len(links) != len(ref.keys) - before or len(set(links)) != len(links):
        tally.wrong(
            "four studies", [f"{len(links)} publications of {len(ref.keys) - before} steps"]
        )
    log.unlink()
    tally.wrong("four studies", lab.sound() + lab.left())


OFFSETS = (("+2d", None), ("-2d", None), (None, "-30y"), ("+2d", "-30y"))


def clocks(
    lab: Lab,
    ref: Reference,
    tally: Tally,
    offsets: tuple[tuple[str | None, str | None], ...] = OFFSETS,
) -> None:
    """The clock two days ahead, then back, then in the year 2001, between and within runs."""
    library = next((p for p in FAKETIME if Path(p).exists()), None)
    tally.note = (
        "libfaketime"
        if library
        else "files dated into the future and the past: no libfaketime here"
    )
    half = {"match": r"^os\.link cache/ac/", "at": 3, "do": "kill"}
    for first, then in offsets:
        lab.fresh()
        for offset, fault in ((first, half), (then, half), (None, None)):
            clock = {"LD_PRELOAD": library, "FAKETIME": offset} if library and offset else {}
            done = lab.run(*lab.optimize, fault=fault, **clock)
            if not library and offset:
                dated(lab, offset)
                lab.seen = {}
            tally.runs += 1
            tally.wrong(f"{first}, {then}", told(done, -9, 0, 1) + lab.published() + lab.sound())
        tally.faults += 1
        tally.wrong(f"{first}, {then}", whole(lab, ref))
        done = lab.run("gc")
        tally.runs += 1
        tally.wrong(f"{first}, {then}, gc", told(done, 0) + lab.sound())
        finish(lab, ref, tally)


def dated(lab: Lab, offset: str) -> None:
    """Every file of the cache as of another time."""
    days = int(offset[:-1]) * (365 if offset.endswith("y") else 1)
    for path in lab.cache.rglob("*"):
        if path.is_file() and not path.is_symlink():
            moment = path.stat().st_mtime + 86400 * days
            os.utime(path, (max(moment, 1e9), max(moment, 1e9)))
