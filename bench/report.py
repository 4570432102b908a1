"""The report of a large study: its size, how long it takes to write, and how long Chromium takes to
open it.

    python bench/report.py [PROJECT [STUDY]]  # a folder with outputs/; else its latest study

Without a project it runs a study of 205 random mixes of fable_mini first (6 minutes on one core).
Prints one line: `candidates=.. bytes=.. write_s=.. open_ms=.. (median of 9, the worst)`; goals:
under 3 MB, open in under a second.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDY = [
    "optimize",
    "hardware=raspberry_pi_5",
    "model=fable_mini",
    "probe=quick",
    "planner=random",
    "planner.evaluations=205",
    "max_rounds=99",
    "texts.second=null",
    "goal=quality",
    "goal.max_size_mb=2.6",
]
OPENS = 9
# What a person waits for: from the start of the navigation until the page is laid out and painted.
PAINTED = """() => new Promise(done => requestAnimationFrame(() => setTimeout(() => {
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  done(Math.max(performance.getEntriesByType('navigation')[0].loadEventEnd,
                paint ? paint.startTime : 0));
}, 0)))"""


def studied(folder: Path) -> Path:
    """A project with a study of 205 candidates."""
    for name in ("dodo.py", "conf", "models"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "doit", *STUDY], cwd=folder, check=False)
    return folder


def opened(path: Path) -> list[float]:
    """Milliseconds until the page is loaded and painted, in a fresh context each."""
    from playwright.sync_api import sync_playwright

    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    times = []
    with sync_playwright() as kit:
        made = kit.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(OPENS + 1):
            page = made.new_context(viewport={"width": 390, "height": 844}, offline=True).new_page()
            page.goto(path.resolve().as_uri(), wait_until="load")
            times.append(float(page.evaluate(PAINTED)))
            page.context.close()
        made.close()
    return times[1:]


def main() -> None:
    """Write the report anew, then open it."""
    from sintra.results.pages.report import write_report

    with tempfile.TemporaryDirectory() as name:
        root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else studied(Path(name))
        os.chdir(root)
        study = sys.argv[2] if len(sys.argv) > 2 else (root / "outputs" / "latest").resolve().name
        start = time.perf_counter()
        path = write_report(root, study)
        wrote = time.perf_counter() - start
        count = len(json.loads((path.parent / "result.json").read_text())["candidates"])
        times = opened(path)
        print(
            f"candidates={count} bytes={path.stat().st_size} write_s={wrote:.1f} "
            f"open_ms={statistics.median(times):.0f} (worst {max(times):.0f})"
        )


if __name__ == "__main__":
    main()
