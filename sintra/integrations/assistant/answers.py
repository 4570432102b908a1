"""What an assistant can ask of a project, as JSON. Everything but `start` and `stop` only reads.

What an assistant sends is data: options are those of the dashboard's form (numbers, switches and
names from closed lists), and names of studies are looked up, never joined to a path.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.hardware.profiles import read_profiles
from sintra.results.dashboard import runs
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.words import hide_folders
from sintra.study import running

Answer = dict[str, Any]  # JSON
LIMIT_S = 300  # of a command
SHOWN = 12  # candidates of a result
LATEST = "latest"
_started: set[str] = set()  # names of the studies that this process has started
PLANNERS = ("solver", "ladder")  # those that ask nobody else


@dataclass(frozen=True)
class Wanted:
    """What an assistant asks a study for."""

    model: str
    hardware: str
    goal: str = "balanced"
    planner: str = "solver"
    probe: str = "standard"  # quick: less text, for a first look
    options: tuple[str, ...] = ()  # KEY=VALUE


def devices(root: Path) -> Answer:
    """Return the device profiles."""
    fields = ("title", "backend", "cores", "isa", "ram_gb", "usable_gb", "bandwidth_gbs")
    return {
        "devices": [
            {"name": name, **{f: profile.get(f) for f in fields}}
            for name, profile in read_profiles(root).items()
        ]
    }


def estimate(root: Path, model: str, hardware: str, kind: str) -> Answer:
    """Return speed and memory on a device by type, or of one type on every device.

    hardware: "" for every device; kind: the type then. Raises UserError.
    """
    every = not hardware
    runs.check_choices(root, {"model": model, "hardware": hardware})
    check_word(kind)
    words = ["estimate", "--format", "json", *(["--devices", "--type", kind] if every else [])]
    overrides = [f"model={model}", *([] if every else [f"hardware={hardware}"])]
    return {"estimates": ask_doit(root, words, overrides)}


def plan(root: Path, wanted: Wanted) -> Answer:
    """Return the steps that the next run of a study would build. Raises UserError."""
    name, overrides = checked_study(root, wanted)
    found: Answer = ask_doit(root, ["plan", "--format", "json"], overrides)
    return {"study": name, "steps": found["steps"], "stop": found["stop"]}


def studies(root: Path) -> Answer:
    """Return every study of the project, in a row each: those that run first, then the newest."""
    return {"studies": [asdict(row) for row in Studies(root).study_rows()]}


def compare(root: Path, names: Sequence[str]) -> Answer:
    """Return the winners of some studies side by side, of all where none is named.

    Raises UserError.
    """
    known = Studies(root)
    chosen = {find_study(known, name) for name in names}
    rows = [row for row in known.study_rows() if not chosen or row.name in chosen]
    metrics = ("size_bytes", "kld_mean", "same_top", "device_tg_tps", "device_ram_bytes")
    return {
        "studies": [
            {
                "name": row.name,
                "state": row.state,
                "model": row.model,
                "hardware": row.hardware,
                "goal": row.goal,
                "winner": row.winner,
                "kld_error": row.kld_error,
                **{metric: row.metrics.get(metric) for metric in metrics},
            }
            for row in rows
        ]
    }


def result(root: Path, study: str) -> Answer:
    """Return what a study came to: its goal, its winner and the best candidates.

    Raises UserError for an unknown study, and for one without a result.
    """
    known = Studies(root)
    name = find_study(known, study)
    seen = known.snapshot(name)
    if seen.result is None:
        raise UserError(f"{name} has no result yet: ask for its progress")
    found = seen.result
    return {
        "study": name,
        "status": found["status"],
        "reason": hide_folders(found["reason"]),
        "model": found["model"],
        "hardware": found["hardware"],
        "context": found["context"],
        "goal": found["goal"],
        "winner": found["winner"],
        "candidates": [asdict(line) for line in seen.candidates[:SHOWN]],
        "options": seen.options,
        "wall_s": found["wall_s"],
    }


def progress(root: Path, study: str) -> Answer:
    """Return how far a study is. Raises UserError for an unknown one."""
    runs.reap_ended()
    known = Studies(root)
    if study in _started and not known.has_study(study):
        return not_begun(known, study)
    name = find_study(known, study)
    seen = known.snapshot(name)
    moving = seen.progress
    return {
        "study": name,
        "state": "running" if runs.is_starting(name) else seen.row.state,
        "round": moving.round if moving else None,
        "reason": moving.reason if moving else "",
        "done": moving.done if moving else None,
        "total": moving.total if moving else None,
        "building": moving.building if moving else [],
        "seconds_left": moving.seconds_left if moving else None,
        "candidates": [asdict(line) for line in seen.candidates[:SHOWN]],
        "log": seen.log,
    }


def not_begun(known: Studies, name: str) -> Answer:
    """Return the progress of a study whose process has written nothing but its log yet."""
    return {
        "study": name,
        "state": "running" if runs.is_starting(name) else "stopped",
        "round": None,
        "reason": "",
        "done": None,
        "total": None,
        "building": [],
        "seconds_left": None,
        "candidates": [],
        "log": known.log_tail(name),
    }


def why(root: Path, study: str, step: str) -> Answer:
    """Return why a step of a study is up to date or not. Raises UserError."""
    known = Studies(root)
    overrides = known.read_overrides(find_study(known, study))
    if overrides is None:
        raise UserError(f"the options of {study} aren't recorded any more")
    check_word(step)
    return {"step": step, "why": run_doit(root, ["why", step], overrides).strip()}


def explain(root: Path, file: str) -> Answer:
    """Return what a GGUF is: types, sizes, bits, metadata, template. Raises UserError."""
    if file.startswith("-") or "=" in file or not file.isprintable():
        raise UserError(f"{file!r} is not a path that can be asked about: rename the file")
    found: Answer = ask_doit(root, ["explain", "--format", "json", file], [])["files"][0]
    return found


def start(root: Path, wanted: Wanted) -> Answer:
    """Start a study, or resume it, as a process of its own that outlives this one.

    Raises UserError.
    """
    name, overrides = checked_study(root, wanted)
    store = Studies(root).store.root
    started = runs.start_study(root, store, name, overrides)
    _started.add(name)
    return {"study": name, "started": started, "note": "" if started else "it runs already"}


def stop(root: Path, study: str) -> Answer:
    """Stop a study as Ctrl-C does: what is finished is kept. Raises UserError."""
    known = Studies(root)
    name = find_study(known, study)
    return {"study": name, "stopped": running.cancel_run(known.folder(name))}


def checked_study(root: Path, wanted: Wanted) -> tuple[str, list[str]]:
    """Return a study's name and its options, checked as the dashboard checks its form.

    Raises UserError.
    """
    if wanted.planner not in PLANNERS:
        raise UserError(f"planner={wanted.planner!r} can't be asked for: {' or '.join(PLANNERS)}")
    for option in wanted.options:
        if any(c.isspace() for c in option):
            raise UserError(f"{option!r} is not an option; expected key=value")
    values = {name: str(value) for name, value in asdict(wanted).items() if name != "options"}
    return runs.check_form(root, values | {"more": " ".join(wanted.options)})


def find_study(known: Studies, name: str) -> str:
    """Return the name of a study; `latest` stands for the one whose winner was last promoted.

    Raises UserError for an unknown one.
    """
    if name == LATEST:
        link = known.root / "outputs" / LATEST
        if not link.exists():
            raise UserError("no study has a winner yet: outputs/latest isn't there")
        return link.resolve().name
    if not known.has_study(name):
        raise UserError(f"unknown study {name[:200]!r}: {nearest(name, [*known.names(), LATEST])}")
    return name


def check_word(word: str) -> None:
    """Raise UserError for what doit would take for an option of its own."""
    if not word or word.startswith("-") or "=" in word or not word.isprintable():
        raise UserError(f"{word!r} is not a name")


def ask_doit(root: Path, words: list[str], overrides: list[str]) -> Any:
    """Return the JSON that a command prints. Raises UserError with the command's own words."""
    printed = run_doit(root, words, overrides)
    at = min((printed.find(c) for c in "[{" if c in printed), default=0)
    return json.loads(printed[at:])


def run_doit(root: Path, words: list[str], overrides: list[str]) -> str:
    """Run a command in a process of its own and return what it prints. Raises UserError."""
    command = runs.doit_command(root, words, overrides)
    try:
        done = subprocess.run(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,  # ours is the protocol's
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"`doit {words[0]}` took more than {LIMIT_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("sintra: ") if lines else "no reason given"
        raise UserError(f"`doit {words[0]}` failed: {hide_folders(reason)}")
    return done.stdout
