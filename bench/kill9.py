"""kill -9 at random moments of one optimize, resumed each time, against an uninterrupted run.

    python bench/kill9.py [--kills 20] [--seed 0]

Last line: `kills=... equal=yes|no published_once=yes|no`; result.json is compared without times and
measured speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARGS = [
    "optimize",
    "hardware=jetson_nano",
    "probe=quick",
    "planner=ladder",
    "planner.types=[Q8_0,Q4_K_M,Q3_K_M,Q2_K]",
]
PER_RUN, SPEEDS = (
    ("steps", "wall_s", "llm"),
    (
        "pp_tps",
        "tg_tps",
        "ram_peak_bytes",
        "ram_peak_mmap_bytes",
        "ram_load_bytes",
        "ram_prefill_bytes",
        "ram_decode_bytes",
    ),
)


def project(root: Path) -> Path:
    """A folder like a clone, with a cache of its own."""
    root.mkdir()
    for name in ("dodo.py", "conf", "models"):
        (root / name).symlink_to(ROOT / name)
    return root


def essence(root: Path) -> str:
    """The result without times and measured speeds."""
    result = json.loads((root / "outputs/latest/result.json").read_text())
    for row in [*result["candidates"], result["winner"]]:
        row["measurements"] = [m for m in row["measurements"] if m["metric"] not in SPEEDS]
    return json.dumps({k: v for k, v in result.items() if k not in PER_RUN}, sort_keys=True)


def entries(root: Path) -> set[str]:
    """The published keys."""
    return {p.name for p in (root / "cache/ac").glob("*/*.json")}


def seed_toolchain(source: Path, target: Path) -> None:
    """Give the second cache the converter: its download by pip takes a third of the whole and would
    catch most kills.
    """
    for entry in (source / "cache/ac").glob("*/*.json"):
        record = json.loads(entry.read_text())
        if record["stage"] == "toolchain":
            blobs = [Path("cache/cas") / f["sha256"][:2] / f["sha256"] for f in record["files"]]
            for path in [*blobs, entry.relative_to(source)]:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / path, target / path)


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command, rng = [sys.executable, "-m", "doit", *ARGS], random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole = project(Path(name) / "whole")
        start = time.perf_counter()
        subprocess.run(command, cwd=whole, check=False, capture_output=True)
        print(f"uninterrupted: {time.perf_counter() - start:.0f} s")
        torn = project(Path(name) / "torn")
        seed_toolchain(whole, torn)
        publishes: dict[str, int] = {}
        for number in range(options.kills):
            running = subprocess.Popen(
                command,
                cwd=torn,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(rng.uniform(0.5, 14.0))
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            for path in (torn / "cache/ac").glob("*/*.json"):
                publishes[path.name] = publishes.get(path.name, 0) or path.stat().st_mtime_ns
            print(f"kill {number + 1}: {len(entries(torn))} steps published", flush=True)
        subprocess.run(command, cwd=torn, check=False, capture_output=True)
        kept = all(
            (torn / "cache/ac" / n[:2] / n).stat().st_mtime_ns == t for n, t in publishes.items()
        )
        once = kept and entries(torn) == entries(whole)
        equal = essence(torn) == essence(whole)
        shutil.rmtree(torn / "cache/tmp")
        print(
            f"kills={options.kills} equal={'yes' if equal else 'no'} "
            f"published_once={'yes' if once else 'no'}"
        )


if __name__ == "__main__":
    main()
