"""The commands beside `optimize`: plan, why, history, verify, gc, rollback, export_ollama, next."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from doit.task import Task

from sintra.build.explain import explain
from sintra.cli.commands import exports, history, plan, plugins
from sintra.cli.steps import Call
from sintra.core.errors import Transient, UserError, nearest
from sintra.integrations.listeners import telemetry
from sintra.results import latest, table, validation
from sintra.store.store import Store
from sintra.study import round_files, rounds
from sintra.study.workspace import Workspace

DOCS = {
    "optimize": (
        "Build and measure variants until the goal holds: doit optimize hardware=NAME model=NAME "
        "goal.max_kld=0.02"
    ),
    "sweep": (
        "A study for each combination: doit sweep model=a,b hardware=x,y goal.max_kld=0.01,0.05"
    ),
    "compare": (
        "Several models for one device, and which to take: doit compare model=a,b hardware=NAME"
    ),
    "plan": (
        "The dry run: every step of the next run, hit or build, with sizes and times where known; "
        "changes nothing"
    ),
    "why": "Which part of a step's key has changed: doit why quantize:fable-Q4_K_M hardware=...",
    "history": "Every result of every study: show, export as CSV or JSON, forget",
    "verify": (
        "Rehash what has changed in the cache, or all (--full); what is damaged goes into "
        "quarantine and is rebuilt"
    ),
    "gc": (
        "Delete what no study needs; --older 30d and --max-size 20G let studies go that outputs/ "
        "and pins don't hold"
    ),
    "du": "What the cache is full of, by stage and by model, shared and not",
    "push": (
        "Give what this cache has made to the shared store: doit push "
        "store.remote=s3://bucket/prefix"
    ),
    "pull": "Take from the shared store what it has of a study, or all that it has (--all)",
    "plugins": (
        "Every stage, probe, planner, export, listener and device that is installed, and why one "
        "can't be loaded"
    ),
    "telemetry": (
        "Counts of ended studies, off until you turn it on: --on, --off, --show prints exactly "
        "what would be sent"
    ),
    "rollback": (
        "Point outputs/latest to the last good result before the present one; it is validated first"
    ),
    "validate": (
        "Whether a result is sound: its files have their SHA-256, its model loads and answers: "
        "doit validate STUDY"
    ),
    "ab": (
        "The same prompts through the original and the winner, side by side: doit ab prompt='Once "
        "upon a time'"
    ),
    "surgery": (
        "The latest winner as a picture, tensor by tensor, beside a stock preset: "
        "outputs/<study>/surgery.html"
    ),
    "report": (
        "The report of a study (the latest unless one is named) again, as one page: "
        "outputs/<study>/report.html"
    ),
    "dashboard": (
        "A web page on this machine: studies as they run, plots, comparison, an A/B box (extra: "
        "dashboard)"
    ),
    "estimate": (
        "Speed and memory of a model on a device, or on all of them (--devices), without building "
        "anything"
    ),
    "detect": (
        "What this machine is: cores, ISA, memory and limits, bandwidth, GPUs; writes a profile "
        "(--out mine.yaml)"
    ),
    "thermal": (
        "Heat over time, simulated: temperature, clock and tokens/s, burst and sustained; --log "
        "fits a logged run"
    ),
    "calibrate": (
        "Refine a profile by measurements: a CSV (--csv), or what was measured here; its interval "
        "shrinks"
    ),
    "docs": (
        "Make the reference pages in docs/reference from the code and conf; with --site the whole "
        "site, in site/"
    ),
    "check": "What must hold before a change lands: format, lint, types, tests",
    "next": "What can be done next",
}
DEVICE = ("estimate", "detect", "thermal", "calibrate")
UPKEEP = ("verify", "gc", "du", "push", "pull")
FORMAT = {"name": "format", "long": "format", "default": "text", "help": "text or json"}


def tasks(root: Path, raw: list[str], workspace: Workspace | None) -> Iterator[Task]:
    """The command tasks of this command line."""
    store = workspace.store if workspace else Store(root / cache_name(raw))
    free: dict[str, tuple[Callable[..., Any], list[dict[str, Any]], str | None]] = {
        "history": (
            functools.partial(history.show, store.root / "history.db"),
            list(history.PARAMS),
            None,
        ),
        "rollback": (lambda: latest.rollback(root, store), [], None),
        "validate": (
            lambda studies: validation.print_findings(root, store, studies),
            [],
            "studies",
        ),
        "plugins": (lambda format: plugins.show(format), [FORMAT], None),
        "telemetry": (
            functools.partial(telemetry.command, root),
            [
                option("on", False, "turn it on"),
                option("off", False, "turn it off; what waits is dropped"),
                option("show", False, "print exactly what would be sent"),
                option("endpoint", "", "where it goes, with --on"),
            ],
            None,
        ),
        "ab": (lambda: page("ab", root, raw), [], None),
        "surgery": (lambda: page("surgery", root, raw), [], None),
        "docs": (
            lambda site: document(root, site),
            [option("site", False, "build the site with MkDocs too")],
            None,
        ),
        "dashboard": (
            lambda host, port: dashboard(root, host, port),
            [
                option(
                    "host",
                    "127.0.0.1",
                    "the address to listen on; beyond this machine a token is asked for",
                ),
                option("port", 8080, "0: any free one"),
            ],
            None,
        ),
        "report": (lambda words: report(root, words, raw), [], "words"),
        "check": (lambda: check(root), [], None),
        "next": (lambda: advise(root), [], None),
    }
    free |= (
        device_commands(root, raw)
        | cache_commands(root, store)
        | exports.commands(root, raw, store)
    )
    for name, (function, params, pos) in free.items():
        yield command(name, function, params, pos)
    if workspace:
        yield command("plan", lambda format: plan.show(workspace, format), [FORMAT], None)
        yield from shared_commands(workspace)
        yield command("why", lambda steps: why(workspace, steps), [], "steps")


def cache_commands(
    root: Path, store: Store
) -> dict[str, tuple[Callable[..., Any], list[dict[str, Any]], str | None]]:
    """The commands about the cache as a whole."""

    def verify(full: bool) -> bool:
        from sintra.store import maintenance  # not on the no-op path

        return maintenance.verify(root, store, full)

    def collect(dry_run: bool, older: str, max_size: str, pin: str, unpin: str) -> None:
        from sintra.store import maintenance

        if pin or unpin:
            maintenance.pin(store, pin or unpin, bool(pin))
        else:
            maintenance.collect(root, store, dry_run, older, max_size)

    def du(format: str) -> None:
        from sintra.store import usage

        usage.show(store, format)

    dry = {
        "name": "dry_run",
        "long": "dry-run",
        "type": bool,
        "default": False,
        "help": "only say what would go",
    }
    most = {
        "name": "max_size",
        "long": "max-size",
        "default": "",
        "help": "until what stays is smaller: 500M, 20G, 4GiB",
    }
    limits = [
        option("older", "", "studies not run for so long go too: 12h, 30d, 8w"),
        most,
        option("pin", "", "keep this study whatever its age and size"),
        option("unpin", "", "no longer"),
    ]
    return {
        "verify": (
            verify,
            [
                option(
                    "full", False, "read everything again, outputs/ and what no step names included"
                )
            ],
            None,
        ),
        "gc": (collect, [dry, *limits], None),
        "du": (du, [FORMAT], None),
    }


def shared_commands(workspace: Workspace) -> Iterator[Task]:
    """push and pull."""

    def push() -> bool:
        from sintra.cli.commands import share  # not on the no-op path

        return share.push(workspace)

    def pull(all: bool) -> bool:
        from sintra.cli.commands import share

        return share.pull(workspace, all)

    yield command("push", push, [], None)
    yield command(
        "pull", pull, [option("all", False, "everything that the shared store has")], None
    )


def option(name: str, default: Any, help: str) -> dict[str, Any]:
    """A command's option, --name."""
    kind = {"type": type(default)} if default is not None else {}
    return {"name": name, "long": name, "default": default, "help": help} | kind


def device_commands(
    root: Path, raw: list[str]
) -> dict[str, tuple[Callable[..., Any], list[dict[str, Any]], str | None]]:
    """The commands about devices; they need a model's config at most, so no study is opened for
    them.
    """

    def estimate(devices: bool, type: str, format: str) -> None:
        from sintra.cli.commands import devices as module

        module.show(root, raw, devices, type, format)

    def detect(out: str, quick: bool, format: str) -> None:
        from sintra.cli.commands import devices as module

        module.detect(root, raw, out, not quick, format)

    out = option("out", "", "where the profile goes; without it, where hardware=auto looks")
    quick = option(
        "quick", False, "don't measure the bandwidth of a machine that a profile of ours stands for"
    )

    def thermal(minutes: float, type: str, cooled: bool, log: str, plot: str, format: str) -> None:
        from sintra.cli.commands import thermal as module

        module.show(root, raw, minutes, type, cooled, log, plot, format)

    def calibrate(csv: str, out: str) -> None:
        from sintra.cli.commands import devices as module

        module.calibrate(root, raw, csv, out)

    csv = option("csv", "", "a CSV of read_bytes, weights, layers, tg_tps")
    heat = [
        option("minutes", 15.0, "how long"),
        option("type", "Q4_K_M", "the model's type"),
        option("cooled", False, "with the cooler that the profile knows of"),
        option("log", "", "a CSV of seconds, celsius, watts: fits R and C to it"),
        option("plot", "", "a PNG of the three over time (needs the bench extra)"),
        FORMAT,
    ]
    every = option("devices", False, "one type on every device that there is a profile of")
    return {
        "thermal": (thermal, heat, None),
        "calibrate": (calibrate, [csv, option("out", "", "where the profile goes")], None),
        "detect": (detect, [out, quick, FORMAT], None),
        "estimate": (
            estimate,
            [every, option("type", "Q4_K_M", "the type for --devices"), FORMAT],
            None,
        ),
    }


def command(
    name: str, function: Callable[..., Any], params: list[dict[str, Any]], pos: str | None
) -> Task:
    """A command as a task that always runs."""
    call = Call(function)
    task = Task(
        name,
        [call],
        params=params,
        pos_arg=pos,
        doc=DOCS.get(name) or exports.doc(name),
        verbosity=2,
        uptodate=[False],
    )
    call.task = task
    return task


def cache_name(raw: list[str]) -> str:
    """The cache folder that the command line names."""
    return next((o.split("=", 1)[1] for o in raw if o.startswith("store.path=")), "cache")


def page(name: str, root: Path, raw: list[str]) -> None:
    """Run a command that leaves a page beside a result."""
    from sintra.cli.commands import pages  # not on the no-op path

    getattr(pages, name)(root, raw)


def report(root: Path, words: list[str], raw: list[str]) -> None:
    """Write a study's page anew."""
    from sintra.cli.commands import pages  # not on the no-op path

    pages.report(root, [*(f"study={w}" for w in words), *raw])


def dashboard(root: Path, host: str, port: int) -> None:
    """Serve the web page until Ctrl-C."""
    from sintra.results.dashboard.serve import serve  # not on the no-op path

    serve(root, host, port)


def document(root: Path, site: bool) -> None:
    """Write the reference pages; with MkDocs (extra: docs) the site."""
    from sintra.cli.docs import reference  # not on the no-op path

    changed = reference.write(root, DOCS)
    print(
        f"{len(changed)} reference pages changed" + (f": {', '.join(changed)}" if changed else "")
    )
    if site:
        reference.build(root)


# Each worker keeps to one core (tests/conftest.py): llama.cpp's threads spin, and two on a core
# take ten times as long.
TESTS = ["pytest", "-n", "auto", "--dist", "loadfile"]


def check(root: Path) -> None:
    """Run the linters and the tests, the first failure ends it."""
    for command in (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], TESTS):
        print("+ " + " ".join(command), flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", *command], cwd=root, check=False)
        except OSError as error:
            raise Transient(f"{command[0]} can't be started: {error}") from None
        if done.returncode:
            raise Transient(f"{command[0]} failed (exit {done.returncode})")


def advise(root: Path) -> None:
    """What a person can do now."""
    path = root / "outputs" / "latest" / "result.json"
    if path.exists():
        print(f"latest: {table.advice_line(json.loads(path.read_text()))}")
    print(
        "doit optimize hardware=NAME model=NAME    the main job (names: conf/hardware, conf/model)"
    )
    shown = (
        "plan",
        "why",
        "history",
        "plugins",
        "telemetry",
        *DEVICE,
        *UPKEEP,
        "validate",
        "rollback",
        *exports.names(),
    )
    for name in (*shown, "ab", "surgery", "report", "dashboard"):
        print(f"doit {name:<15} {DOCS.get(name) or exports.doc(name)}")
    print("doit help optimize, doit list --all, docs/guide.md for more")


def why(workspace: Workspace, steps: list[str]) -> None:
    """Explain steps by name."""
    graph = workspace.graph()
    known = {
        s.name: s for r in round_files.read_rounds(workspace) for s in rounds.round_steps(graph, r)
    }
    if not known:
        raise UserError(
            "nothing is recorded for this study yet: run `doit plan` with the same options"
        )
    for name in steps or sorted(known):
        if name not in known:
            raise UserError(f"this study has no step {name!r}: {nearest(name, known)}")
        print(f"{name}: {explain(known[name], workspace.store)}")
