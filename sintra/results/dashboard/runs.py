"""Start a study as a process of its own, foresee one, check a form: the dashboard's only doings."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from sintra.config import compose
from sintra.core.errors import UserError
from sintra.study import running
from sintra.study.workspace import open_workspace

FORBIDDEN = {
    "store.path": "the dashboard shows one cache",
    "probe.run_code": "code that a model writes is only run when the command line says so",
}
NUMBERS = {
    "goal.max_kld": "mean KL divergence at most, nats",
    "goal.max_size_mb": "file at most, MB",
    "goal.min_tg_tps": "tokens/s at least, on the device",
    "goal.max_ram_gb": "memory at most, GiB",
}
PLAN_S = 120
_one = threading.Lock()  # Hydra composes one configuration at a time
_begun: dict[str, subprocess.Popen[bytes]] = {}


def choices(root: Path) -> dict[str, list[str]]:
    """What the form offers."""
    groups = {
        g: sorted(compose.names(root, g)) for g in ("model", "hardware", "goal", "planner", "probe")
    }
    groups["model"] = [m for m in groups["model"] if m != "custom"]
    groups["planner"] = [p for p in groups["planner"] if p != "replay"]
    return groups


def overrides(values: dict[str, str]) -> list[str]:
    """A form's values as options, the empty ones left out. Raises UserError in one line."""
    made = []
    for group in ("hardware", "model", "goal", "planner", "probe"):
        if value := values.get(group, "").strip():
            made.append(f"{group}={value}")
    for key in NUMBERS:
        if value := values.get(key, "").strip():
            made.append(f"{key}={number(key, value)}")
    for item in values.get("more", "").split():
        key, equals, value = item.partition("=")
        if not equals or not value or not re.fullmatch(r"[a-z][\w.]*", key):
            raise UserError(
                f"{item!r} is no option: wanted is key=value, such as planner.evaluations=10"
            )
        if key in FORBIDDEN:
            raise UserError(f"{key} can't be set here: {FORBIDDEN[key]}")
        made.append(item)
    if not any(o.startswith("hardware=") for o in made):
        raise UserError("choose the hardware that the model is for")
    return made


def number(key: str, text: str) -> str:
    """A positive number as typed. Raises UserError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{NUMBERS[key]}: {text!r} is no number above 0")
    return text


def checked(root: Path, values: dict[str, str]) -> tuple[str, list[str]]:
    """The study's name and its options. Raises UserError as the command line would."""
    given = overrides(values)
    with _one:
        return open_workspace(root, given).study.id, given


def command(root: Path, task: list[str], given: list[str]) -> list[str]:
    """doit, in this Python."""
    return [
        sys.executable,
        "-m",
        "doit",
        "-f",
        str(root / "dodo.py"),
        "-d",
        str(root),
        *task,
        *given,
    ]


def start(root: Path, store: Path, name: str, given: list[str]) -> bool:
    """Begin or go on with a study, its words in cache/runs. False where it runs already."""
    if running.is_running(store / "studies" / name):
        return False
    (store / "runs").mkdir(exist_ok=True, mode=0o700)
    with (store / "runs" / f"{name}.log").open("wb") as log:
        _begun[name] = subprocess.Popen(
            command(root, ["optimize"], given),
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ,
        )
    return True


def starting(name: str) -> bool:
    """Whether the process that was begun here for a study is alive."""
    return name in _begun and _begun[name].poll() is None


def reap() -> None:
    """Let go of studies that have ended."""
    for name in [n for n, p in _begun.items() if p.poll() is not None]:
        del _begun[name]


def foreseen(root: Path, given: list[str]) -> dict[str, Any]:
    """The dry run: what the next run would build. Raises UserError with the command's own words."""
    asked = command(root, ["plan", "--format", "json"], given)
    try:
        done = subprocess.run(
            asked, cwd=root, capture_output=True, text=True, timeout=PLAN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"the dry run took more than {PLAN_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(lines[-1].removeprefix("sintra: ") if lines else "the dry run failed")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found
