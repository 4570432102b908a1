"""kill -9: at every boundary of every step and round, and at random moments. SIGTERM at random
moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

from .lab import Lab, Reference, Tally, pattern, site, told, whole

# What is about to be written at a boundary: a step's folder (before it starts), its blobs, its AC
# entry, and the removal of the entry's temporary name (after it is published); a round's file;
# every file of outputs/; the history.
BOUNDARIES = (
    r"^os\.mkdir cache/tmp/[0-9a-f]{64}\.[0-9a-f]{32}/?$",
    r"^os\.rename cache/cas/",
    r"^os\.link cache/ac/",
    r"^os\.remove cache/tmp/[0-9a-f]{64}\.[0-9a-f]{32}\.json",
)


def boundaries(lab: Lab, ref: Reference, tally: Tally, most: int | None = None) -> None:
    """Killed at each boundary in turn, each run going on from there; every other kill is of the
    worker alone.
    """
    lab.fresh()
    places = [*steps(ref), *ends(ref)]
    for number, place in enumerate(places[:: max(1, len(places) // most)] if most else places):
        do = "worker" if number % 2 and not place.startswith("^os.rename outputs") else "kill"
        done = lab.run(*lab.optimize, fault={"match": place, "do": do})
        tally.runs += 1
        if not lab.struck():  # an earlier run got past it: from the start, up to there
            tally.wrong(place, told(done, 0) + whole(lab, ref))
            lab.fresh()
            done = lab.run(*lab.optimize, fault={"match": place, "do": do})
            tally.runs += 1
        tally.faults += lab.struck()
        tally.wrong(place, told(done, -9, 1) if lab.struck() else told(done, 0))
        tally.wrong(place, lab.published() + lab.sound())
    finish(lab, ref, tally)


def steps(ref: Reference) -> list[str]:
    """The four boundaries of each step: each is the next one in a run that goes on after the one
    before.
    """
    count = sum(c.startswith("os.link cache/ac/") for c in ref.changes)
    return list(BOUNDARIES) * count


def ends(ref: Reference) -> list[str]:
    """Boundaries of rounds and of the delivery: each once."""
    found = [
        site(c)
        for c in ref.changes
        if c.startswith(("os.rename cache/studies", "os.rename outputs", "os.link outputs"))
    ]
    found += [site(c) for c in ref.changes if c.startswith("sqlite3.connect") or "history" in c]
    return [pattern(place) for place in dict.fromkeys(found)]


def finish(lab: Lab, ref: Reference, tally: Tally) -> None:
    """A run that nobody disturbs ends well and finds everything that was finished."""
    done = lab.run(*lab.optimize)
    tally.runs += 1
    tally.wrong("the run after the last fault", told(done, 0) + whole(lab, ref))


def moments(
    lab: Lab, ref: Reference, tally: Tally, count: int, seed: int = 0, number: int = signal.SIGKILL
) -> None:
    """Killed at random moments, over and over, and from an empty cache again whenever the study was
    finished.
    """
    rng, longest = random.Random(seed), 6.0
    lab.fresh()
    while tally.faults < count:
        running = lab.popen(*lab.optimize)
        start = time.monotonic()
        try:
            out, err = running.communicate(timeout=rng.uniform(0.1, longest))
            longest = min(longest, max(2.0, 1.2 * (time.monotonic() - start)))
        except subprocess.TimeoutExpired:
            os.kill(running.pid, number)  # doit alone: its worker must go with it
            tally.faults += 1
            out, err = running.communicate(timeout=30)
        tally.runs += 1
        done = subprocess.CompletedProcess(["optimize"], running.returncode, out, err)
        where = f"kill {tally.faults}"
        if running.returncode == 0:
            tally.wrong(where, told(done, 0) + whole(lab, ref))
            lab.fresh()
            continue
        ended = (-9,) if number == signal.SIGKILL else (143, -15)  # -15: before anything was begun
        tally.wrong(where, told(done, *ended) + alone(lab))
        tally.wrong(where, lab.published() + lab.sound())
    finish(lab, ref, tally)


def alone(lab: Lab) -> list[str]:
    """Violations: workers that outlive their doit."""
    for _ in range(40):
        found = subprocess.run(
            ["pgrep", "-f", f"sintra.build.worker {lab.root}"], capture_output=True, text=True
        ).stdout.split()
        if not found:
            return []
        time.sleep(0.05)
    return [f"{len(found)} workers outlive their doit"]
