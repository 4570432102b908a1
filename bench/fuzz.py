"""Inputs that nobody meant, for everything that reads what others wrote: counts tracebacks, hangs
and writes outside.

    python bench/fuzz.py [--inputs 100000] [--hydra 5000] [--only PATTERN] [--seed 0]
    python bench/fuzz.py --coverage 60 --only "GGUF header"  # libFuzzer, seconds (extra: fuzz)

The targets are a table in tests/fuzzing/targets.py. They take turns, a twentieth of their inputs
each, so that Ctrl-C leaves something of all; what was tried is printed then, too. Last line:
`inputs=... tracebacks=0 hangs=0 outside=0`; exit code 1 where anything isn't 0.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing.guard import Count, Guard  # noqa: E402
from fuzzing.mutate import from_bytes, mutated  # noqa: E402
from fuzzing.targets import TARGETS, Target  # noqa: E402

from sintra.config.tasks import templates  # noqa: E402
from sintra.core.rendering.worker import SHARED  # noqa: E402
from sintra.formats.chat import renderer  # noqa: E402

SLOW_S = 0.5  # processor time of a template: many don't end, and to end them is no different
TEXTS_A_CHILD = 500  # templates that one child process is given
TURNS = 20
THROUGH_HYDRA = ("overrides to a study", "profiles to a study")  # 20 to 60 ms an input


@dataclass
class Trial:
    """A target, and what came of its inputs so far."""

    name: str
    target: Target
    inputs: Iterator[bytes]
    wanted: int  # inputs
    count: Count = field(default_factory=Count)
    seconds: float = 0.0

    def go_on(self, guard: Guard, folder: Path, most: int) -> None:
        """Try some more inputs, in a folder that is emptied then."""
        start = time.monotonic()
        try:
            for data in islice(self.inputs, min(most, self.wanted - self.count.inputs)):
                guard.tried(self.count, self.target.run, data, folder, self.target.allowed)
        finally:
            self.seconds += time.monotonic() - start
            emptied(folder)

    def row(self) -> str:
        """Return the line of the table, and what was found below it."""
        c = self.count
        cells = (c.tracebacks, c.hangs, c.outside, round(self.seconds))
        row = f"{self.name:<22}{c.inputs:>9}{c.refused:>9}" + "".join(f"{x:>11}" for x in cells)
        return "\n".join([row, *("  " + line.replace("\n", "\n  ") for line in c.found)])


def trials(options: argparse.Namespace) -> list[Trial]:
    """Return what is to be tried."""
    return [
        Trial(
            name,
            target,
            target.inputs(random.Random(options.seed)),
            options.hydra if name in THROUGH_HYDRA else options.inputs,
        )
        for name, target in TARGETS.items()
        if re.search(options.only, name)
    ]


def try_all(wanted: list[Trial], guard: Guard, folder: Path) -> None:
    """Let the targets take turns until all inputs are tried, or Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(TURNS):
            for trial in wanted:
                trial.go_on(guard, folder, -(-trial.wanted // TURNS))


def emptied(folder: Path) -> None:
    """What earlier inputs left goes, so that folders stay small."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def by_coverage(target: Target, guard: Guard, folder: Path, seconds: int) -> None:
    """libFuzzer through atheris; never returns."""
    import atheris

    seeds, found = target.seeds(), Count()

    def one(data: bytes) -> None:
        if not data:
            return
        guard.tried(
            found,
            target.run,
            mutated(seeds[data[0] % len(seeds)], from_bytes(data[1:]), target.words),
            folder,
            target.allowed,
        )
        if found.bad:
            raise RuntimeError(found.found[0])

    target.run(
        seeds[0], folder
    )  # imported before, so that nothing of it is mistaken for the input's doing
    atheris.instrument_all()
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", "-rss_limit_mb=4096", "-timeout=20"], one
    )
    atheris.Fuzz()


def main() -> int:
    """All targets, a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument(
        "--hydra", type=int, default=5_000, help="for targets that go through Hydra"
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", type=int, default=0, metavar="SECONDS")
    options, guard = parser.parse_args(), Guard()
    SHARED.texts_a_child = TEXTS_A_CHILD
    renderer.CPU_S = templates.SECONDS = SLOW_S
    wanted = trials(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sintra-fuzz-", dir=memory) as folder:
        tempfile.tempdir = folder  # what a target makes for itself lies in there too
        if options.coverage:
            by_coverage(wanted[0].target, guard, Path(folder), options.coverage)
        try_all(wanted, guard, Path(folder))
        tempfile.tempdir = None
    heads = ("tracebacks", "hangs", "outside", "seconds")
    print(f"{'target':<22}{'inputs':>9}{'refused':>9}" + "".join(f"{head:>11}" for head in heads))
    print(*(trial.row() for trial in wanted), sep="\n")
    sums = {
        name: sum(getattr(trial.count, name) for trial in wanted)
        for name in ("inputs", "tracebacks", "hangs", "outside")
    }
    print(*(f"{name}={number}" for name, number in sums.items()))
    return 1 if any(trial.count.bad for trial in wanted) else 0


if __name__ == "__main__":
    raise SystemExit(main())
