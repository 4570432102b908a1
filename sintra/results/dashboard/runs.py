"""Start a study as a process of its own, ask for a dry run, and check a form."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import NotRequired, TypedDict

from sintra.config import compose
from sintra.core.errors import UserError, nearest
from sintra.core.metrics import LIMITS
from sintra.study import running
from sintra.study.workspace import open_workspace

GROUPS = ("hardware", "model", "goal", "planner", "probe")  # configuration groups of the form
HIDDEN = {"model": "custom", "planner": "replay"}  # group -> choice that needs further options
# What "More options" takes: numbers, switches and names from closed lists. An option that names
# code, an address, a folder or money is for the command line, and so is every one not listed here.
ALLOWED = frozenset(
    f"{group}.{name}".lstrip(".")
    for group, names in {
        "": "formats seed max_rounds timeout_s refresh",
        "compress": "bits group_size",
        "goal": "optimise fit_memory max_kld max_kld_p999 max_ppl_ratio min_same_top "
        "min_task_retention max_size_mb max_ram_gb min_tg_tps min_pp_tps min_tg_tps_sustained "
        "accept_simulated enforce_memory context",
        "hardware": "cores ram_gb usable_gb bandwidth_gbs tflops",
        "limits": "study_minutes heavy memory_gb background",
        "model": "convert requantize revision",
        "planner": "types evaluations kv seed batch max_dropped rounding learn refine polish",
        "probe": "context calibration_tokens calibration_random refine_tokens refine_steps "
        "polish_tokens polish_epochs search_tokens report_tokens second_tokens top_k speed_prompt "
        "speed_generate speed_repeat task_context task_chat",
        "texts": "second temperature chat",
    }.items()
    for name in names.split()
)
ONLY = {"texts.second": "null"}  # option -> the one value that the form takes: others name files
VALUE = re.compile(r"[\w.+-]+|\[[\w.+,-]*\]", re.ASCII)  # a word, a number, or a list of them
LIMITED = ("max_kld", "max_size_mb", "min_tg_tps", "max_ram_gb")  # in the form, in this order
NUMBERS = {f"goal.{option}": LIMITS[option].option_label for option in LIMITED}
PLAN_LIMIT_S = 120
_compose_lock = threading.Lock()  # Hydra composes one configuration at a time
_processes: dict[str, subprocess.Popen[bytes]] = {}  # study -> its process, where it started here


class DryRunStep(TypedDict):
    """A step of the next run, as `doit plan --format json` prints it."""

    step: str
    state: str  # "build" or "hit"
    seconds: float | None  # expected; None where unknown
    bytes: NotRequired[int]  # size of its model
    exact: NotRequired[bool]  # whether bytes is that of a file


class DryRun(TypedDict):
    """What the next run would build."""

    steps: list[DryRunStep]
    stop: str | None  # why nothing would be built


def form_choices(root: Path) -> dict[str, list[str]]:
    """Return the choices that the form offers for each configuration group."""
    return {
        group: sorted(n for n in compose.names(root, group) if n != HIDDEN.get(group))
        for group in GROUPS
    }


def form_overrides(root: Path, values: dict[str, str]) -> list[str]:
    """Return a form's values as options, the empty ones left out. Raises UserError in one line."""
    filled = {key: text for key, value in values.items() if (text := value.strip())}
    check_choices(root, filled)
    overrides = [f"{group}={filled[group]}" for group in GROUPS if group in filled]
    overrides += [f"{key}={positive_number(key, filled[key])}" for key in NUMBERS if key in filled]
    overrides += [allowed_override(item) for item in filled.get("more", "").split()]
    if "hardware" not in filled:
        raise UserError("choose the hardware that the model is for")
    return overrides


def check_choices(root: Path, filled: dict[str, str]) -> None:
    """Check that what is chosen is one of the form's own choices, and that the model is plain text.

    A page can send anything. Raises UserError.
    """
    choices = form_choices(root)
    for group in GROUPS:
        value = filled.get(group, "")
        if group == "model" and ("${" in value or not value.isprintable()):
            raise UserError(f"model={value!r} is not a name, a hub model or a folder")
        if group != "model" and value and value not in choices[group]:
            raise UserError(f"no {group} is called {value!r}: {nearest(value, choices[group])}")


def allowed_override(item: str) -> str:
    """Return a further option as typed. Raises UserError where the form doesn't take it."""
    key, equals, value = item.partition("=")
    if not equals or not value or not re.fullmatch(r"[a-z][\w.]*", key, re.ASCII):
        raise UserError(
            f"{item!r} is not an option; expected key=value, such as planner.evaluations=10"
        )
    if key in compose.keys() - ALLOWED or key in compose.GROUPS:
        raise UserError(f"{key} can't be set here: give it to `doit optimize` on the command line")
    if key not in ALLOWED:
        raise UserError(f"unknown option {key!r}: {nearest(key, ALLOWED)}")
    if not VALUE.fullmatch(value) or value != ONLY.get(key, value):
        expected = ONLY.get(key, "a number, a word or a list such as [Q4_K,Q8_0]")
        raise UserError(f"{key}={value!r} can't be set here; expected {expected}")
    return item


def positive_number(key: str, text: str) -> str:
    """Return a number as typed. Raises UserError where it is not finite and above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{NUMBERS[key]}: {text!r} is not a number above 0")
    return text


def check_form(root: Path, values: dict[str, str]) -> tuple[str, list[str]]:
    """Return the study's name and its options. Raises UserError as the command line would."""
    return check_options(root, form_overrides(root, values))


def check_options(root: Path, overrides: list[str]) -> tuple[str, list[str]]:
    """Return the study's name and its options. Raises UserError as the command line would."""
    with _compose_lock:
        return open_workspace(root, overrides).study.id, overrides


def doit_command(root: Path, task: list[str], overrides: list[str]) -> list[str]:
    """Return the command that runs doit in this Python."""
    dodo = ["-f", str(root / "dodo.py"), "-d", str(root)]
    return [sys.executable, "-m", "doit", *dodo, *task, *overrides]


def start_study(root: Path, store: Path, name: str, overrides: list[str]) -> bool:
    """Start or resume a study; its output goes to the folder runs/ of the cache.

    Returns False where it runs already.
    """
    if running.is_running(store / "studies" / name):
        return False
    (store / "runs").mkdir(exist_ok=True, mode=0o700)
    with (store / "runs" / f"{name}.log").open("wb") as log:
        _processes[name] = subprocess.Popen(
            doit_command(root, ["optimize"], overrides),
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ,
        )
    return True


def is_starting(name: str) -> bool:
    """Return whether the process that was started here for a study is alive."""
    return name in _processes and _processes[name].poll() is None


def reap_ended() -> None:
    """Collect the exit codes of studies that have ended, so that no zombie is left."""
    for name in [n for n, process in _processes.items() if process.poll() is not None]:
        del _processes[name]


def dry_run(root: Path, overrides: list[str]) -> DryRun:
    """Return what the next run would build. Raises UserError with the command's own words."""
    command = doit_command(root, ["plan", "--format", "json"], overrides)
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=PLAN_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"the dry run took more than {PLAN_LIMIT_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(lines[-1].removeprefix("sintra: ") if lines else "the dry run failed")
    plan: DryRun = json.loads(done.stdout[done.stdout.index("{") :])
    return plan
