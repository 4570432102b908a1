"""What a study costs: seconds by stage, when the first result was there, and the whole.

    python bench/cost.py [--model models/fable] [--hardware jetson_nano] [--limit 0] [key=value ...]

A study in a project of its own, from an empty cache, as `doit optimize` runs it; nothing else
should run meanwhile. --limit: minutes, given as limits.study_minutes. Last line: `total=...
first=... built=... winner=... kld=... bytes=...`, seconds, the winner's mean KLD and its size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def project(folder: Path) -> None:
    """Make a project that uses this checkout's code, conf and models."""
    (folder / "dodo.py").write_bytes((ROOT / "dodo.py").read_bytes())
    for name in ("conf", "models"):
        (folder / name).symlink_to(ROOT / name)


def events(folder: Path, arguments: list[str]) -> list[tuple[float, dict[str, Any]]]:
    """Run `doit optimize` and return its events with the seconds at which they came."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    start, found = time.monotonic(), []
    command = ["doit", "optimize", "progress=json", "limits.deliver_s=0", *arguments]
    with (
        (folder / "result").open("w") as result,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=result, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr
        for line in process.stderr:
            if line.startswith("{"):
                found.append((time.monotonic() - start, json.loads(line)))
            else:
                print(line, end="", file=sys.stderr)
    found.append((time.monotonic() - start, {"event": "end", "text": ""}))
    return found


def by_stage(found: list[tuple[float, dict[str, Any]]]) -> dict[str, list[float]]:
    """Return stage -> seconds of its steps."""
    stages: dict[str, list[float]] = defaultdict(list)
    for _, event in found:
        if event["event"] == "built":
            stages[event["step"].partition(":")[0]].append(event["seconds"])
    return dict(stages)


def first_result(found: list[tuple[float, dict[str, Any]]]) -> float:
    """Return when the first result that holds the limits was in outputs/, else the end."""
    early = (at for at, event in found if event["text"].startswith("so far "))
    return next(early, found[-1][0])


def main() -> None:
    """One study, one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--model", default=str(ROOT / "models" / "fable"))
    parser.add_argument("--hardware", default="jetson_nano")
    parser.add_argument("--limit", type=float, default=0.0, help="minutes")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    arguments = [f"model={options.model}", f"hardware={options.hardware}", *options.overrides]
    arguments += [f"limits.study_minutes={options.limit:g}"] if options.limit else []
    with tempfile.TemporaryDirectory(prefix="sintra-cost-") as scratch:
        folder = Path(scratch)
        project(folder)
        found = events(folder, arguments)
        result = json.loads(next((folder / "outputs").glob("*/result.json")).read_text())
    stages = by_stage(found)
    print(f"{'stage':14} {'steps':>5} {'seconds':>8}")
    for stage, seconds in sorted(stages.items(), key=lambda item: -sum(item[1])):
        print(f"{stage:14} {len(seconds):5} {sum(seconds):8.1f}")
    winner = result["winner"]
    name = winner["name"]
    rows = {row["metric"]: row["value"] for row in winner["measurements"]}
    print(
        f"total={found[-1][0]:.1f} first={first_result(found):.1f} "
        f"built={sum(map(len, stages.values()))} winner={name} "
        f"kld={rows.get('kld_mean', float('nan')):.5f} bytes={int(rows['size_bytes'])}"
    )


if __name__ == "__main__":
    main()
