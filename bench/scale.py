"""Many tasks: a no-op over a sweep of 10,000 variants, and the first build of 1,000 trivial steps,
both beside plain doit.

    python bench/scale.py [--variants 10000] [--steps 1000] [--rounds 3]

No-op: each variant is a chain of two steps. Ours are in the store (AC entries as it writes them,
but not synced one by one, since 20,000 workers are another benchmark); plain doit's targets and
database come from its own first run. First build: both sides run the same processes, `python -m
sintra.build.worker ORDER` on a step that copies one small file, two at a time; plain doit has its
orders
written beforehand. Runs alternate, the median counts; processor time stands beside wall time, since
a busy neighbour spoils the latter. Last line: `noop_ms_per_task_above_doit=... (processor ...)
first_build_ratio=... (...)`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from sintra.build.step import Step
from sintra.build.worker_process import environment
from sintra.core.artifact import Artifact
from sintra.store.store import Store
from sintra.study.pinning import Digests, pin_file

STAGES = ("quantize", "quality")

OURS = """
import os
from pathlib import Path
from doit.task import Task
from scale_steps import chains
from sintra.build.run_state import current
from sintra.cli.reporter import Reporter
from sintra.cli.steps import step_task
from sintra.store.store import Store

DOIT_CONFIG = {{"backend": "sqlite3", "dep_file": "cache/doit.db", "reporter": Reporter,
               "default_tasks": ["all"],
               "par_type": "thread"}}


def task_graph():
    yield from graph()


def graph():
    store, names = Store(Path("cache")), []
    for chain in chains(Path.cwd(), {variants}, {depth}):
        for step in chain:
            names.append(step.name)
            yield step_task(step, store, None, current)
    yield Task("all", None, task_dep=names, has_subtask=True)
"""

PLAIN = """
import shutil

DOIT_CONFIG = {{"backend": "sqlite3", "dep_file": "doit.db", "reporter": "zero"}}


def task_graph():
    for i in range({variants}):
        above = "text.txt"
        for stage in {stages!r}:
            target = f"out/{{stage}}-{{i}}"
            yield {{"name": f"{{stage}}-{{i}}",
                   "actions": [(shutil.copyfile, [above, target])], "file_dep": [above],
                   "targets": [target]}}
            above = target
"""

PROCESSES = """
import sys

DOIT_CONFIG = {{"backend": "sqlite3", "dep_file": "doit.db", "reporter": "zero",
               "par_type": "thread"}}


def task_graph():
    for i in range({steps}):
        worker = [sys.executable, "-m", "sintra.build.worker", f"orders/{{i}}.json"]
        yield {{"name": f"step-{{i}}", "actions": [worker]}}
"""


def chains(root: Path, variants: int, depth: int) -> list[list[Step]]:
    """Trivial steps that copy one small file; equal in kind, different in key."""
    source = pin_file(root / "text.txt", Digests(root / "cache" / "meta" / "digests.json"))
    found = []
    for i in range(variants):
        chain: list[Step] = []
        for stage in STAGES[:depth]:
            params = {"kind": "file", "digest": source.digest, "stage": stage, "i": i}
            chain.append(
                Step(
                    "fetch",
                    f"{stage}-{i}",
                    params,
                    {"above": chain[-1]} if chain else {},
                    {"from": source.locator},
                )
            )
        found.append(chain)
    return found


def folder(root: Path, name: str, dodo: str) -> Path:
    """A project."""
    made = root / name
    (made / "out").mkdir(parents=True)
    (made / "cache").mkdir()
    (made / "text.txt").write_text("x\n")
    (made / "dodo.py").write_text(dodo)
    shutil.copy(__file__, made / "scale_steps.py")
    return made


class Cost(NamedTuple):
    """Of one doit run: seconds, seconds of processor time of it and its children, peak resident
    memory in MB.
    """

    wall: float
    processor: float
    peak: float


def timed(place: Path, *options: str) -> Cost:
    """Run doit."""
    env = environment(1)
    env.pop("SINTRA_PARENT")
    start = time.perf_counter()
    running = subprocess.Popen(
        [sys.executable, "-m", "doit", *options],
        cwd=place,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, status, usage = os.wait4(running.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(running.stderr.read() if running.stderr else "doit failed")
    return Cost(
        time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000
    )


def no_op(root: Path, variants: int, rounds: int) -> tuple[float, float]:
    """Prints both; returns milliseconds a task above plain doit, wall and processor."""
    ours = folder(root, "ours", OURS.format(variants=variants, depth=2))
    plain = folder(root, "plain", PLAIN.format(variants=variants, stages=STAGES))
    store, start = Store(ours / "cache"), time.perf_counter()
    artifact = seeded(store, ours)
    for chain in chains(ours, variants, 2):
        for step in chain:
            key = step.key(store)
            assert key is not None
            record = {
                "key": key,
                "step": step.name,
                "stage": step.stage,
                "action": step.action(store),
            }
            store.entry_path(key).parent.mkdir(parents=True, exist_ok=True)
            store.entry_path(key).write_text(
                json.dumps(record | {"files": [asdict(f) for f in artifact.files]}, sort_keys=True)
            )
    print(
        f"ours: {variants * 2} entries written in {time.perf_counter() - start:.1f} s", flush=True
    )
    print(f"plain doit: first run {timed(plain).wall:.1f} s", flush=True)
    timed(ours)
    costs: dict[str, list[Cost]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        costs["plain"].append(timed(plain))
        costs["ours"].append(timed(ours))
    tasks = variants * 2
    wall, processor = (
        {k: statistics.median(c[i] for c in v) / tasks * 1000 for k, v in costs.items()}
        for i in (0, 1)
    )
    for name, found in costs.items():
        print(
            f"{name}: no-op over {tasks} tasks {wall[name]:.3f} ms a task, processor "
            f"{processor[name]:.3f}, {max(c.peak for c in found):.0f} MB",
            flush=True,
        )
    return wall["ours"] - wall["plain"], processor["ours"] - processor["plain"]


def seeded(store: Store, root: Path) -> Artifact:
    """The artifact of a trivial step."""
    out = root / "artifact"
    out.mkdir()
    (out / "text.txt").write_text("x\n")
    return store.put_tree(out)


def write_orders(place: Path, steps: int) -> None:
    """What our parent would have written for each of the steps."""
    (place / "orders").mkdir()
    store = Store(place / "cache")
    for i, (step,) in enumerate(chains(place, steps, 1)):
        order = {
            "key": step.key(store),
            "stage": step.stage,
            "step": step.name,
            "store": str(store.root),
            "inputs": {},
            "action": step.action(store),
            "hints": step.hints,
            "threads": 1,
        }
        (place / "orders" / f"{i}.json").write_text(json.dumps(order))


def first_build(root: Path, steps: int) -> tuple[float, float]:
    """Prints both; returns our time over plain doit's, wall and processor. In quarters, in turn, so
    that a busy neighbour meets both.
    """
    spent, part = {"ours": [0.0, 0.0], "plain": [0.0, 0.0]}, max(1, steps // 4)
    for number in range(4):
        plain = folder(root, f"processes{number}", PROCESSES.format(steps=part))
        write_orders(plain, part)
        ours = folder(root, f"steps{number}", OURS.format(variants=part, depth=1))
        for name, place in (("plain", plain), ("ours", ours)):
            cost = timed(place, "-n", "2")
            spent[name][0] += cost.wall
            spent[name][1] += cost.processor
    for name, (wall, processor) in spent.items():
        print(
            f"{name}: {part * 4} steps, two at a time, {wall:.1f} s, processor {processor:.1f} s",
            flush=True,
        )
    return spent["ours"][0] / spent["plain"][0], spent["ours"][1] / spent["plain"][1]


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        above = no_op(Path(name), options.variants, options.rounds)
        ratio = first_build(Path(name), options.steps)
        print(
            f"noop_ms_per_task_above_doit={above[0]:.3f} (processor {above[1]:.3f}) "
            f"first_build_ratio={ratio[0]:.2f} (processor {ratio[1]:.2f})"
        )


if __name__ == "__main__":
    main()
