"""What a stage is, and what it is given to work with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from sintra.core.artifact import Artifact, Failure

Resource = Literal[
    "light",  # one core or the network
    "heavy",  # all cores
    "alone",  # nothing else of ours may run
]
PROBE_FILE = "measurements.json"  # what every probe writes
PROGRESS_MARK = "> "
"""How a line of a worker's log begins that is shown as it comes, also without a terminal."""


Params = dict[str, Any]  # JSON, part of a step's key; its keys depend on the stage
Hints = dict[str, Any]  # JSON that helps but isn't in the key: a path, a host


class Context(NamedTuple):
    """What a running step has: its parameters, its inputs, and where to write."""

    params: Params  # what the step's key has
    inputs: dict[str, Path]  # role -> folder of read-only files
    out: Path  # an empty folder whose files become the artifact
    hints: Hints  # what helps but isn't in the key
    keep: Path  # a folder that outlives a killed run, for downloads that resume
    threads: int  # how many cores it may use

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file of the artifact. Raises ValueError for a value that is not JSON."""
        (self.out / name).write_text(json.dumps(value, sort_keys=True, allow_nan=False) + "\n")

    def say(self, text: str) -> None:
        """Write a line of progress into the log."""
        print(text, file=sys.stderr, flush=True)


class StageIdentity(TypedDict):
    """A stage's own part of an action key."""

    stage: str  # its name
    version: int
    tools: dict[str, str]  # distribution -> installed version
    platform: NotRequired[str]  # of a stage whose result depends on the machine


@dataclass(frozen=True)
class Stage:
    """A kind of step."""

    name: str
    version: int  # raised whenever the same inputs may give other outputs
    run: Callable[[Context], None]
    tools: tuple[str, ...] = ()  # distributions whose version is part of the key
    resource: Resource = "heavy"
    platform: bool = False  # whether the CPU's name and the number of cores are part of the key
    timeout_s: float = 4 * 3600  # seconds of wall time
    metrics: tuple[str, ...] = ()  # names of what a probe measures
    files: tuple[str, ...] = ()
    """What every artifact of it holds: paths of files, and folders that end in "/" and aren't
    empty. An entry without them is a miss."""
    optional: bool = False
    """Whether a study goes on without it: a fault that may pass is then its variant's failure in
    this run."""

    executed: bool = False
    """Whether what it makes is run or installed: such an artifact isn't taken from a shared store
    whose entries carry no HMAC."""
    check: Callable[[Params, Artifact], bool] | None = None
    """Whether an artifact can be what the stage makes of these parameters; None: any can that
    holds the files."""
    title: str = ""
    """What people read in the place of its name while it runs, such as "Measure quality"."""

    def accepts(self, params: Params, outcome: Artifact | Failure) -> bool:
        """Return whether an outcome can be this stage's: an artifact must hold what it declares."""
        if isinstance(outcome, Failure):
            return True
        fits = self.check is None or self.check(params, outcome)
        return fits and outcome.holds(self.declared)

    @cached_property
    def declared(self) -> tuple[str, ...]:
        """Return what every artifact holds; of a probe that names no files its measurements."""
        return self.files or ((PROBE_FILE,) if self.metrics else ())

    @cached_property
    def identity(self) -> StageIdentity:
        """Return the stage's own part of an action key."""
        versions = {name: tool_version(name) for name in self.tools}
        own: StageIdentity = {"stage": self.name, "version": self.version, "tools": versions}
        if self.platform:
            own["platform"] = machine()
        return own


@cache
def tool_version(name: str) -> str:
    """Return the installed version of a distribution; "none" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def machine() -> str:
    """Return the CPU's name, its architecture and its usable cores, without any host name."""
    import platform  # only where a stage depends on the machine

    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} {platform.machine()} x{cores()}"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
