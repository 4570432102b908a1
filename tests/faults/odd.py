"""A finished study with things of other kinds in its cache and outputs/, and outputs/ as a copy."""

from __future__ import annotations

import random
import shutil

from .flips import KINDS as PLACES
from .flips import delivered, flip, mended
from .kinds import KINDS, put
from .lab import Lab, Reference, Tally, told

SHAPES = ("[]", '{"key": 5}')  # for what is JSON
FEW = ("FIFO",)  # kinds of the quick form


def each_kind(lab: Lab, ref: Reference, tally: Tally, full: bool, seed: int = 0) -> None:
    """A file is a folder, a link, a FIFO, or JSON of another shape: run, verify, run; then
    everything is as it was.
    """
    rng = random.Random(seed)
    lab.fresh()
    tally.wrong("the first run", told(lab.run(*lab.optimize), 0))
    tally.runs += 1
    for name, glob in PLACES.items():
        shapes = SHAPES if glob.endswith(".json") else ()
        for kind in (*KINDS, *shapes) if full else FEW:
            files = sorted(p for p in lab.root.glob(glob) if not p.parent.is_symlink())
            put(rng.choice(files), kind)
            tally.faults += 1
            mended(lab, ref, tally, f"{name} as {kind}")


def copied_outputs(lab: Lab, ref: Reference, tally: Tally, times: int, seed: int = 0) -> None:
    """outputs/ is a copy, as after `cp -r`, and its model rots: the next run delivers it again and
    builds nothing.
    """
    rng = random.Random(seed)
    lab.fresh()
    lab.run(*lab.optimize)
    for number in range(times):
        out = (lab.root / "outputs" / "latest").resolve()
        shutil.copytree(out, out.with_name("copy"))
        shutil.rmtree(out)
        out.with_name("copy").rename(out)
        what = flip(out / "model.gguf", rng)
        tally.faults += 1
        done = lab.run(*lab.optimize)
        tally.runs += 2
        built = [x for x in done.stderr.splitlines() if x.startswith("built ")]
        tally.wrong(f"{number}, {what}", told(done, 0) + built + delivered(lab) + lab.sound())
