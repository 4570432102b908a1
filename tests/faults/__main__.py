"""Every fault, counted: `python -m tests.faults [--full] [--only NAME]`; exit code 1 where anything
was violated.

The quick form takes a few minutes on two cores, the full one about an hour. Faults are real:
SIGKILL and SIGTERM from outside or at a chosen write, a tmpfs that is full or read-only, bytes
changed on disk, a shifted clock, processes side by side.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from . import disk, flips, kills, shared
from .lab import Lab, Tally, laboratory, reference, warmed


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
        "flipped input": lambda t: flips.poisoned(warm, again, t, 8 if full else 1),
        "four processes": lambda t: shared.forty(folder, t, 5 if full else 1),
        "four studies": lambda t: shared.studies(warm, again, t),
        "clock set back": lambda t: shared.clocks(warm, again, t),
    }
    tallies = []
    print(f"{'fault':<22} {'faults':>6} {'runs':>6} {'violations':>10}", flush=True)
    for name, experiment in experiments.items():
        if not re.search(given.only, name):
            continue
        tally = Tally(name)
        experiment(tally)
        tallies.append(tally)
        print(tally.line(), flush=True)
        for line in tally.violations:
            print(f"  {line}", flush=True)
    if not given.folder:
        shutil.rmtree(folder)
    faults, runs, wrong = (
        sum(n) for n in zip(*((t.faults, t.runs, len(t.violations)) for t in tallies), strict=True)
    )
    print(f"faults={faults} runs={runs} violations={wrong} seconds={time.monotonic() - start:.0f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
