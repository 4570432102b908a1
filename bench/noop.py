"""A no-op rebuild: Sintra beside make, plain doit, snakemake and DVC on a graph of the same shape.

    python bench/noop.py [--rounds 5] [--variants 50]

Four stages of N variants with trivial actions, everything up to date; the runs are interleaved,
each round in another order, and the median counts. snakemake and DVC are taken from the PATH, or
from a virtual environment made beside the graph (`--install`). Last line: ratios of Sintra's time
to each peer's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ("fetch", "convert", "quantize", "measure")

SINTRA = """
import sys
from pathlib import Path
from doit.task import Task
from sintra.build.step import Step
from sintra.build.run_state import current
from sintra.cli.reporter import Reporter
from sintra.cli.steps import step_task
from sintra.store.store import Store
from sintra.study.pinning import Digests, pin_file

DOIT_CONFIG = {"backend": "sintra", "dep_file": "cache/doit.db", "reporter": Reporter,
               "default_tasks": ["all"],
               "par_type": "thread", "check_file_uptodate": "timestamp"}  # as in sintra.cli.tasks
Path("cache").mkdir(exist_ok=True)


def task_graph():
    yield from graph()


def graph():
    store, names = Store(Path("cache")), []
    source = pin_file(Path("text.txt"), Digests(Path("cache/meta/digests.json")))
    for i in range(%(variants)d):
        step = None
        for stage in %(stages)r:
            inputs = {"above": step} if step else {}
            params = {"kind": "file", "digest": source.digest, "stage": stage, "i": i}
            step = Step("fetch", f"{stage}-{i}", params, inputs,
                        {"from": source.locator})
            names.append(step.name)
            yield step_task(step, store, None, current)
    yield Task("all", None, task_dep=names, has_subtask=True)
"""

DOIT = """
DOIT_CONFIG = {"backend": "sqlite3", "dep_file": "doit.db", "reporter": "zero"}


def task_graph():
    for i in range(%(variants)d):
        above = "text.txt"
        for stage in %(stages)r:
            target = f"{stage}-{i}.out"
            yield {"name": f"{stage}-{i}", "actions": [f"cp {above} {target}"],
                   "file_dep": [above], "targets": [target]}
            above = target
"""


def write_graphs(root: Path, variants: int) -> dict[str, tuple[Path, list[str]]]:
    """One folder for each tool; returns folder and no-op command."""
    fill = {"variants": variants, "stages": STAGES}
    chains = [
        [
            (f"{s}-{i}.out", f"{STAGES[n - 1]}-{i}.out" if n else "text.txt")
            for n, s in enumerate(STAGES)
        ]
        for i in range(variants)
    ]
    made: dict[str, tuple[Path, list[str]]] = {}

    def add(tool: str, name: str, text: str, command: list[str]) -> None:
        folder = root / tool
        folder.mkdir()
        (folder / "text.txt").write_text("x\n")
        (folder / name).write_text(text)
        made[tool] = (folder, command)

    ends = " ".join(c[-1][0] for c in chains)
    rules = "".join(f"{out}: {src}\n\tcp {src} {out}\n" for c in chains for out, src in c)
    doit = [sys.executable, "-m", "doit"]
    add("sintra", "dodo.py", SINTRA % fill, doit)
    add("doit", "dodo.py", DOIT % fill, doit)
    add("make", "Makefile", f"all: {ends}\n{rules}", ["make", "-s"])
    snake = "".join(
        (
            f"rule r{abs(hash(o))}:\n    input: '{s}'\n    output: '{o}'\n    shell: 'cp "
            f"{{input}} {{output}}'\n"
        )
        for c in chains
        for o, s in c
    )
    add(
        "snakemake",
        "Snakefile",
        f"rule all:\n    input: {ends.split()!r}\n{snake}",
        ["snakemake", "-c1", "-q", "--nolock"],
    )
    stages = "".join(
        f"  {o[:-4]}:\n    cmd: cp {s} {o}\n    deps: [{s}]\n    outs: [{o}]\n"
        for c in chains
        for o, s in c
    )
    add("dvc", "dvc.yaml", f"stages:\n{stages}", ["dvc", "repro", "-q"])
    return made


def install(root: Path) -> str:
    """A virtual environment with the two peers; its bin folder goes first on the PATH."""
    subprocess.run([sys.executable, "-m", "venv", str(root / "peers")], check=True)
    subprocess.run([str(root / "peers/bin/pip"), "install", "-q", "snakemake", "dvc"], check=True)
    return f"{root / 'peers/bin'}{os.pathsep}{os.environ['PATH']}"


def main() -> None:
    """Build all, then time the no-ops in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", type=int, default=50)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        env.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # installed peers have their byte code; ours may have it too
        if options.install:
            env["PATH"] = install(root)
        made = {
            t: v
            for t, v in write_graphs(root, options.variants).items()
            if t in ("sintra", "doit") or shutil.which(v[1][0], path=env["PATH"])
        }
        if "dvc" in made:
            for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
                subprocess.run(command, cwd=made["dvc"][0], env=env, check=True)
        times: dict[str, list[float]] = {t: [] for t in made}
        for tool, (folder, command) in made.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
            print(f"{tool}: first build {time.perf_counter() - start:.1f} s", flush=True)
        order, shuffle = (
            list(made.items()),
            random.Random(0).shuffle,
        )  # a big neighbour leaves cold caches behind
        for _ in range(options.rounds):
            shuffle(order)
            for tool, (folder, command) in order:
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
                times[tool].append(time.perf_counter() - start)
        medians = {t: statistics.median(v) for t, v in times.items()}
        for tool, value in medians.items():
            print(f"{tool}: no-op {value * 1000:.0f} ms")
        print(
            " ".join(
                f"sintra/{t}={medians['sintra'] / v:.3f}"
                for t, v in medians.items()
                if t != "sintra"
            )
        )


if __name__ == "__main__":
    main()
