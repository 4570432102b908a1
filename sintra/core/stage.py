"""What a stage is, and what it is given to work with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

Resource = Literal["light", "heavy", "alone"]


class Context(NamedTuple):
    """A running step: its parameters, its inputs (role -> folder of read-only files), and where to
    write.

    out: an empty folder whose files become the artifact; hints: what helps but isn't in the key (a
    path, a host); keep: a folder that outlives a killed run, for downloads that resume; threads:
    how many cores it may use.
    """

    params: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    hints: dict[str, Any]
    keep: Path
    threads: int

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the artifact."""
        (self.out / name).write_text(json.dumps(value, sort_keys=True, allow_nan=False) + "\n")

    def say(self, text: str) -> None:
        """A line of progress, into the log."""
        print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Stage:
    """A kind of step. `version` is raised whenever the same inputs may give other outputs.

    tools: distributions whose version is part of the key; platform: whether the CPU's name and the
    number of cores are; optional: whether a study goes on without it, a fault that may pass being
    its variant's failure in this run; resource: light (one core or the network), heavy (all cores)
    or alone (nothing else of ours may run).
    """

    name: str
    version: int
    run: Callable[[Context], None]
    tools: tuple[str, ...] = ()
    resource: Resource = "heavy"
    platform: bool = False
    timeout_s: float = 4 * 3600
    metrics: tuple[str, ...] = field(default=())
    optional: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The stage's own part of an action key."""
        versions = {name: tool_version(name) for name in self.tools}
        own: dict[str, Any] = {"stage": self.name, "version": self.version, "tools": versions}
        return own | ({"platform": machine()} if self.platform else {})


_versions: dict[str, str] = {}


def tool_version(name: str) -> str:
    """The installed version of a distribution; "none" where it is not installed."""
    if name not in _versions:
        try:
            _versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            _versions[name] = "none"
    return _versions[name]


@cache
def machine() -> str:
    """The CPU's name, its architecture and how many cores this process may use; no host name."""
    import platform

    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} {platform.machine()} x{cores()}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MARK = (
    "> "  # how a line of a worker's log begins that is shown as it comes, also without a terminal
)
