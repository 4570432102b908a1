"""Inputs that nobody meant, for everything that reads what others wrote: counts tracebacks, hangs
and writes outside.

    python bench/fuzz.py [--inputs 100000] [--slow 100000] [--only NAME] [--seed 0]
    python bench/fuzz.py --coverage 60 --only "GGUF header"  # libFuzzer, seconds (extra: fuzz)

Last line: `inputs=... tracebacks=0 hangs=0 outside=0`; exit code 1 where anything isn't 0. The
targets are a table in tests/fuzzing/targets.py.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
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
HYDRA_COST = ("overrides to a study", "profiles to a study")  # 20 to 60 ms an input


def random_inputs(target: Target, guard: Guard, folder: Path, count: int, seed: int) -> Count:
    """So many inputs, the same for a seed."""
    found = Count()
    for number, data in enumerate(islice(target.inputs(random.Random(seed)), count)):
        guard.tried(found, target.run, data, folder, target.allowed)
        if number % 5000 == 4999:
            emptied(folder)
    return found


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
        "--slow", type=int, default=100_000, help="for targets of a millisecond and more"
    )
    parser.add_argument(
        "--hydra", type=int, default=5_000, help="for targets that go through Hydra"
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", type=int, default=0, metavar="SECONDS")
    given, guard, total = parser.parse_args(), Guard(), Count()
    SHARED.texts_a_child = TEXTS_A_CHILD
    renderer.CPU_S = templates.SECONDS = SLOW_S
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    print(
        f"{'target':<22}{'inputs':>9}{'refused':>9}{'tracebacks':>12}{'hangs':>7}{'outside':>9}"
        f"{'seconds':>9}",
        flush=True,
    )
    for name, target in TARGETS.items():
        if not re.search(given.only, name):
            continue
        with tempfile.TemporaryDirectory(prefix="sintra-fuzz-", dir=memory) as folder:
            tempfile.tempdir = folder  # what the target makes for itself lies in there too
            if given.coverage:
                by_coverage(target, guard, Path(folder), given.coverage)
            start = time.monotonic()
            count = (
                given.hydra if name in HYDRA_COST else given.slow if target.slow else given.inputs
            )
            found = random_inputs(target, guard, Path(folder), count, given.seed)
            tempfile.tempdir = None
        print(
            f"{name:<22}{found.inputs:>9}{found.refused:>9}{found.tracebacks:>12}{found.hangs:>7}"
            f"{found.outside:>9}"
            f"{time.monotonic() - start:>9.0f}",
            flush=True,
        )
        for line in found.found:
            print("  " + line.replace("\n", "\n  "), flush=True)
        total = Count(
            total.inputs + found.inputs,
            total.tracebacks + found.tracebacks,
            total.hangs + found.hangs,
            total.outside + found.outside,
        )
    print(
        f"inputs={total.inputs} tracebacks={total.tracebacks} hangs={total.hangs} "
        f"outside={total.outside}"
    )
    return 1 if total.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
