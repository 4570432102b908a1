"""The commands beside `optimize`: plan, why, history, verify, gc, rollback, export_ollama, next."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.task import Task

from sintra import dryrun, history, past, plugins, result, rounds
from sintra.errors import Transient, UserError, nearest
from sintra.steps import Call, explain
from sintra.store import Store
from sintra.study import Workspace

DOCS = {
    "optimize": "Build and measure variants until the goal holds: doit optimize hardware=NAME model=NAME goal.max_kld=0.02",
    "sweep": "A study for each combination: doit sweep model=a,b hardware=x,y goal.max_kld=0.01,0.05",
    "compare": "Several models for one device, and which to take: doit compare model=a,b hardware=NAME",
    "plan": "The dry run: every step of the next run, hit or build, with sizes and times where known; changes nothing",
    "why": "Which part of a step's key has changed: doit why quantize:fable-Q4_K_M hardware=...",
    "history": "Every result of every study: show, export as CSV or JSON, forget",
    "verify": "Rehash everything in the cache; what is damaged goes into quarantine and is built again by the next run",
    "gc": "Delete what no study needs any more",
    "rollback": "Point outputs/latest to the last good result before the present one",
    "export_ollama": "Hand the latest winner to Ollama: Modelfile, blobs, and `ollama create` where there is one",
    "ab": "The same prompts through the original and the winner, side by side: doit ab prompt='Once upon a time'",
    "surgery": "The latest winner as a picture, tensor by tensor, beside a stock preset: outputs/<study>/surgery.html",
    "estimate": "Speed and memory of a model on a device, or on all of them (--devices), without building anything",
    "detect": "What this machine is: cores, ISA, memory and limits, bandwidth, GPUs; writes a profile (--out mine.yaml)",
    "thermal": "Heat over time, simulated: temperature, clock and tokens/s, burst and sustained; --log fits a logged run",
    "calibrate": "Refine a profile by measurements: a CSV (--csv), or what was measured here; its interval shrinks",
    "check": "What must hold before a change lands: format, lint, types, tests",
    "next": "What can be done next",
}
DEVICE = ("estimate", "detect", "thermal", "calibrate")
FORMAT = {"name": "format", "long": "format", "default": "text", "help": "text or json"}


def tasks(root: Path, raw: list[str], place: Workspace | None) -> Iterator[Task]:
    """The command tasks of this command line."""
    store = place.store if place else Store(root / cache_name(raw))
    free: dict[str, tuple[Callable[..., Any], list[dict[str, Any]], str | None]] = {
        "history": (functools.partial(past.show, store.root / "history.db"), list(past.PARAMS), None),
        "verify": (lambda: verify(store), [], None),
        "gc": (lambda dry_run: collect(store, dry_run), [{"name": "dry_run", "long": "dry-run", "type": bool, "default": False,
                                                          "help": "only say what would go"}], None),
        "rollback": (lambda: rollback(root, store), [], None),
        "export_ollama": (lambda study: export("ollama", root, study), [{"name": "study", "long": "study", "default": "latest",
                                                                         "help": "a folder in outputs/"}], None),
        "ab": (lambda: page("ab", root, raw), [], None),
        "surgery": (lambda: page("surgery", root, raw), [], None),
        "check": (lambda: check(root), [], None),
        "next": (lambda: advise(root), [], None),
    }  # fmt: skip
    free |= device_commands(root, raw)
    for name, (function, params, pos) in free.items():
        yield command(name, function, params, pos)
    if place:
        yield command("plan", lambda format: dryrun.show(place, format), [FORMAT], None)
        yield command("why", lambda steps: why(place, steps), [], "steps")


def option(name: str, default: Any, help: str) -> dict[str, Any]:
    """A command's option, --name."""
    kind = {"type": type(default)} if default is not None else {}
    return {"name": name, "long": name, "default": default, "help": help} | kind


def device_commands(root: Path, raw: list[str]) -> dict[str, tuple[Callable[..., Any], list[dict[str, Any]], str | None]]:
    """The commands about devices; they need a model's config at most, so no study is opened for them."""

    def estimate(devices: bool, type: str, format: str) -> None:
        from sintra import devices as module

        module.show(root, raw, devices, type, format)

    def detect(out: str, quick: bool, format: str) -> None:
        from sintra import devices as module

        module.detect(root, raw, out, not quick, format)

    out = option("out", "", "where the profile goes; without it, where hardware=auto looks")
    quick = option("quick", False, "don't measure the bandwidth of a machine that a profile of ours stands for")

    def thermal(minutes: float, type: str, cooled: bool, log: str, plot: str, format: str) -> None:
        from sintra import heat as module

        module.show(root, raw, minutes, type, cooled, log, plot, format)

    def calibrate(csv: str, out: str) -> None:
        from sintra import devices as module

        module.calibrate(root, raw, csv, out)

    csv = option("csv", "", "a CSV of read_bytes, weights, layers, tg_tps")
    heat = [option("minutes", 15.0, "how long"), option("type", "Q4_K_M", "the model's type"),
            option("cooled", False, "with the cooler that the profile knows of"),
            option("log", "", "a CSV of seconds, celsius, watts: fits R and C to it"),
            option("plot", "", "a PNG of the three over time (needs the bench extra)"), FORMAT]  # fmt: skip
    every = option("devices", False, "one type on every device that there is a profile of")
    return {
        "thermal": (thermal, heat, None),
        "calibrate": (calibrate, [csv, option("out", "", "where the profile goes")], None),
        "detect": (detect, [out, quick, FORMAT], None),
        "estimate": (estimate, [every, option("type", "Q4_K_M", "the type for --devices"), FORMAT], None),
    }


def command(name: str, function: Callable[..., Any], params: list[dict[str, Any]], pos: str | None) -> Task:
    """A command as a task that always runs."""
    call = Call(function)
    task = Task(name, [call], params=params, pos_arg=pos, doc=DOCS[name], verbosity=2, uptodate=[False])
    call.task = task
    return task


def cache_name(raw: list[str]) -> str:
    """The cache folder that the command line names."""
    return next((o.split("=", 1)[1] for o in raw if o.startswith("store.path=")), "cache")


def export(name: str, root: Path, study: str) -> None:
    """Run an export plugin on a folder of outputs/."""
    folder = root / "outputs" / study
    if not (folder / "result.json").exists():
        raise UserError(f"outputs/{study} holds no result: run `doit optimize hardware=...` first")
    plugins.load("exports", name)(folder.resolve(), Store(root / "cache"))


def page(name: str, root: Path, raw: list[str]) -> None:
    """Run a command that leaves a page beside a result."""
    from sintra import pages  # not on the no-op path

    getattr(pages, name)(root, raw)


def verify(store: Store) -> bool:
    """Rehash, and say what will be rebuilt."""
    bad = list(store.verify())
    for file, wrong, step in bad:
        print(f"{wrong}: {file.path} of {step} ({file.sha256[:12]}): the next run that needs it builds it again")
    print(f"{len(bad)} damaged or missing" if bad else "all blobs are sound")
    return not bad


def collect(store: Store, dry_run: bool) -> None:
    """Keep what the recorded studies of this cache need, by the keys that they reached."""
    keep = set()
    for path in (store.root / "studies").glob("*/keys.json"):
        try:
            keep |= set(json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            raise UserError(f"{path} is damaged: run that study's `doit optimize` again first, or delete its folder") from None
    entries, blobs, freed = store.gc(keep, dry_run)
    print(f"{'would delete' if dry_run else 'deleted'} {entries} entries and {blobs} blobs, {freed / 1e6:.1f} MB")


def rollback(root: Path, store: Store) -> None:
    """The newest other study that met its goal and still lies in outputs/."""
    latest = root / "outputs" / "latest"
    present = os.readlink(latest) if latest.is_symlink() else None
    for row in reversed(history.rows(store.root / "history.db")):
        if row["status"] == "met" and row["study"] != present and (root / "outputs" / row["study"] / "result.json").exists():
            result.point(root, row["study"])
            print(f"outputs/latest is now {row['study']}")
            return
    raise UserError("there is no earlier good result to go back to")


def check(root: Path) -> None:
    """Run the linters and the tests, the first failure ends it."""
    for command in (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], ["pytest"]):
        print("+ " + " ".join(command), flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", *command], cwd=root, check=False)
        except OSError as error:
            raise Transient(f"{command[0]} can't be started: {error}") from None
        if done.returncode:
            raise Transient(f"{command[0]} failed (exit {done.returncode})")


def advise(root: Path) -> None:
    """What a person can do now."""
    latest = root / "outputs" / "latest" / "result.json"
    if latest.exists():
        print(f"latest: {result.advice(json.loads(latest.read_text()))}")
    print("doit optimize hardware=NAME model=NAME    the main job (names: conf/hardware, conf/model)")
    for name in ("plan", "why", "history", *DEVICE, "verify", "gc", "rollback", "export_ollama", "ab", "surgery"):
        print(f"doit {name:<15} {DOCS[name]}")
    print("doit help optimize, doit list --all, docs/guide.md for more")


def why(place: Workspace, steps: list[str]) -> None:
    """Explain steps by name."""
    graph = place.graph()
    known = {s.name: s for r in rounds.recorded(place) for s in rounds.steps_of(graph, r)}
    if not known:
        raise UserError("nothing is recorded for this study yet: run `doit plan` with the same options")
    for name in steps or sorted(known):
        if name not in known:
            raise UserError(f"this study has no step {name!r}: {nearest(name, known)}")
        print(f"{name}: {explain(known[name], place.store)}")
