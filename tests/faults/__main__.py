"""Every fault, counted: `python -m tests.faults [--full] [--only NAME]`; exit code 1 where anything
was violated.

The quick form takes a few minutes on two cores, the full one about an hour. Faults are real:
SIGKILL and SIGTERM from outside or at a chosen write, a tmpfs that is full or read-only, bytes
changed on disk, a shifted clock, processes side by side, other kinds of file, what others planted.
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import disk, flips, kills, odd, others, shared
from .lab import ROOT, Lab, Tally, laboratory, reference, warmed

ROUNDS = "planted rounds"
WITH_A_STUDY = (
    "kill -9 at boundaries",
    "kill -9 at random",
    "SIGTERM at random",
    "full disk",
    "read-only cache",
    "flipped byte",
    "other kinds, a study",
    "outputs/ as a copy",
    "flipped input",
    "four processes",
    "four studies",
    "clock set back",
)


def main() -> int:
    """Run all, print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="a regular expression for names")
    parser.add_argument(
        "--folder", type=Path, help="where to work; kept, and used again by the next run"
    )
    given = parser.parse_args()
    full, start = given.full, time.monotonic()
    tallies = without_a_study(given.folder, given.only, full)
    if not any(re.search(given.only, name) for name in WITH_A_STUDY):
        return total(tallies, start)
    folder, model, begun = laboratory(given.folder)
    lab = Lab(folder / "project", model, begun)
    ref = reference(lab)
    print(
        (
            f"the study: {len(ref.keys)} steps, {len(ref.changes)} changes on disk, "
            f"{time.monotonic() - start:.0f} s with set-up"
        ),
        flush=True,
    )
    warm = Lab(folder / "warm", model, warmed(lab, folder / "begun"))
    again = reference(warm)
    few = None if full else 6
    experiments: dict[str, Callable[[Tally], None]] = {
        "kill -9 at boundaries": lambda t: kills.boundaries(lab, ref, t, few),
        "kill -9 at random": lambda t: kills.moments(warm, again, t, 100 if full else 5),
        "SIGTERM at random": lambda t: kills.moments(
            warm, again, t, 20 if full else 2, 1, signal.SIGTERM
        ),
        "full disk": lambda t: disk.full(warm, again, t, few),
        "read-only cache": lambda t: disk.read_only(warm, again, t),
        "flipped byte": lambda t: flips.each_kind(warm, again, t, 4 if full else 1),
        "other kinds, a study": lambda t: odd.each_kind(warm, again, t, full),
        "outputs/ as a copy": lambda t: odd.copied_outputs(warm, again, t, 8 if full else 1),
        "flipped input": lambda t: flips.poisoned(warm, again, t, 8 if full else 1),
        "four processes": lambda t: shared.forty(folder, t, 5 if full else 1),
        "four studies": lambda t: shared.studies(warm, again, t),
        "clock set back": lambda t: shared.clocks(warm, again, t),
    }
    assert tuple(experiments) == WITH_A_STUDY
    for name, experiment in experiments.items():
        if re.search(given.only, name):
            tallies.append(tried(name, experiment))
    if not given.folder:
        shutil.rmtree(folder)
    return total(tallies, start)


def without_a_study(given: Path | None, only: str, full: bool) -> list[Tally]:
    """Run what needs no study, and print the head of the table before it."""
    print(f"{'fault':<22} {'faults':>6} {'runs':>6} {'violations':>10}", flush=True)
    sys.path[:0] = [str(ROOT / "tests")]
    tallies = []
    folder = Path(tempfile.mkdtemp(prefix="sintra-faults-", dir=given))
    try:
        for name, (experiment, count) in others.EXPERIMENTS.items():
            number = count if full else max(16, count // 20)
            if re.search(only, name):
                tallies.append(tried(name, functools.partial(call, experiment, folder, number)))
        if re.search(only, ROUNDS):
            number = 2000 if full else 200
            tallies.append(tried(ROUNDS, lambda t: others.planted_rounds(t, number)))
    finally:
        shutil.rmtree(folder)
    return tallies


def call(
    experiment: Callable[[Path, Tally, int], None], folder: Path, count: int, tally: Tally
) -> None:
    """Run an experiment in a folder of its own."""
    experiment(Path(tempfile.mkdtemp(dir=folder)), tally, count)


def tried(name: str, experiment: Callable[[Tally], None]) -> Tally:
    """Run an experiment and print its line of the table."""
    tally = Tally(name)
    experiment(tally)
    print(tally.line(), flush=True)
    for line in tally.violations:
        print(f"  {line}", flush=True)
    return tally


def total(tallies: list[Tally], start: float) -> int:
    """Print the sums; return the exit code."""
    faults, runs, wrong = (
        sum(n) for n in zip(*((t.faults, t.runs, len(t.violations)) for t in tallies), strict=True)
    )
    print(f"faults={faults} runs={runs} violations={wrong} seconds={time.monotonic() - start:.0f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
