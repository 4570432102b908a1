"""Telemetry: off until the user turns it on, and then a few counts for each study that ends, to an
address of the user's.

No names of models or files, no prompts, no texts of errors, no id of a person, a machine or a
study: see `payload`, which is all there is. DO_NOT_TRACK (any value but 0 and false) turns it off
whatever was said. Without an address nothing can be sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra import __version__
from sintra.config.project import home
from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.events import ENDS, Event, Listener, Setting
from sintra.integrations.listeners import telemetry
from sintra.store.files import write_atomic

ENDPOINT = "SINTRA_TELEMETRY_ENDPOINT"
MOST, OLDEST_S = 20, 7 * 86400  # what is kept while the address can't be reached
OFF = {"on": False, "endpoint": ""}


def forbidden() -> bool:
    """Whether DO_NOT_TRACK is set."""
    return os.environ.get("DO_NOT_TRACK", "").lower() not in ("", "0", "false")


def path(kind: str) -> Path:
    """The settings ("config") or what waits to be sent ("state"), where the XDG base directories
    are.
    """
    name, default = {
        "config": ("XDG_CONFIG_HOME", ".config"),
        "state": ("XDG_STATE_HOME", ".local/state"),
    }[kind]
    base = Path(os.environ.get(name) or Path.home() / default)
    return base / "sintra" / ("telemetry.json" if kind == "config" else "telemetry.jsonl")


def settings() -> dict[str, Any]:
    """What the user has said."""
    try:
        found: dict[str, Any] = json.loads(path("config").read_text())
        return OFF | found
    except (OSError, ValueError):
        return dict(OFF)


def endpoint() -> str:
    """Where it goes."""
    return os.environ.get(ENDPOINT) or str(settings()["endpoint"])


def chosen() -> set[str]:
    """The listener that sends, where the user wants one."""
    return {"telemetry"} if not forbidden() and settings()["on"] and endpoint() else set()


def payload(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """What is sent of a study's end. kind: met, unmet, failed; data: its result (not all of it for
    failed).

    Sizes and times are powers of two; a device or a planner that isn't one of ours is "other".
    """
    winner, steps = data.get("winner") or {}, data.get("steps") or {}
    hardware = {p.stem for p in (home() / "conf" / "hardware").glob("*.yaml")}
    planners = {*plugins.own_names("planners"), "study"}
    return {
        "schema": 1,
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "event": kind,
        "sintra": __version__,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "os": platform.system(),
        "machine": platform.machine(),
        "hardware": known(data.get("hardware"), hardware),
        "author": known(winner.get("author"), planners),
        "format": winner.get("recipe", {}).get("format", "gguf") if winner else None,
        "mb": power((winner.get("artifact") or {}).get("bytes", 0) / 1e6),
        "rounds": data.get("rounds"),
        "evaluations": data.get("evaluations"),
        "built": steps.get("built"),
        "cached": steps.get("cached"),
        "failed": steps.get("failed"),
        "seconds": power(data.get("wall_s", 0)),
    }


def known(name: Any, names: set[str]) -> str | None:
    """A name of ours, "other" for anybody else's."""
    return None if name is None else name if name in names else "other"


def power(value: float) -> int | None:
    """The power of two at or above it."""
    return 2 ** max(0, math.ceil(math.log2(value))) if value > 0 else None


@contextlib.contextmanager
def waiting() -> Iterator[list[dict[str, Any]]]:
    """What waits to be sent: a list to be changed, kept under a lock; what is too old or too much
    is dropped.
    """
    place = path("state")
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with place.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = read(place)
        yield found
        first = time.strftime("%Y-%m-%d", time.gmtime(time.time() - OLDEST_S))
        kept = [p for p in found if p["day"] >= first][-MOST:]
        write_atomic(place, "".join(json.dumps(p) + "\n" for p in kept))


def read(place: Path) -> list[dict[str, Any]]:
    """The file's lines."""
    try:
        return [json.loads(x) for x in place.read_text().splitlines()]
    except (OSError, ValueError):
        return []


def body(every: list[dict[str, Any]]) -> str:
    """The request's body, byte for byte."""
    return json.dumps(every, indent=1)


def command(root: Path, on: bool, off: bool, show: bool, endpoint: str) -> None:
    """`doit telemetry`: turn it on or off, or show what would be sent. Raises UserError."""
    if on and off:
        raise UserError("--on and --off at once")
    if endpoint and not (on and urlsplit(endpoint).scheme in ("http", "https")):
        raise UserError("--endpoint takes an http(s) address, with --on")
    if on or off:
        write_atomic(
            path("config"), json.dumps({"on": on, "endpoint": endpoint or settings()["endpoint"]})
        )
        if off:
            path("state").unlink(missing_ok=True)
    print(state())
    if show:
        print(body([*read(path("state")), *latest(root)]))


def state() -> str:
    """Whether anything is sent, in a line."""
    if forbidden():
        return "telemetry is off: DO_NOT_TRACK is set"
    if not settings()["on"]:
        return (
            "telemetry is off: `doit telemetry --on --endpoint URL` turns it on, --show tells "
            "what would be sent"
        )
    where = endpoint()
    if not where:
        return f"telemetry is on, but has no address (--endpoint, {ENDPOINT}): nothing can be sent"
    return (
        f"telemetry is on: the end of each study goes to {urlsplit(where).hostname}; `doit "
        "telemetry --off` ends that"
    )


def latest(root: Path) -> list[dict[str, Any]]:
    """What the latest study of this project would send, were it to end now."""
    try:
        result = json.loads((root / "outputs" / "latest" / "result.json").read_text())
    except (OSError, ValueError):
        return []
    return [payload("met" if result["status"] == "met" else "unmet", result)]


TIMEOUT_S = 5.0


class Counts:
    """The listener."""

    def __init__(self, setting: Setting) -> None:
        self.url = telemetry.endpoint()

    def hear(self, event: Event) -> None:
        """At the end of a study: send it with what has been waiting; on any trouble, all of it
        waits.
        """
        if event.kind not in ENDS or not telemetry.chosen():
            return
        import httpx

        with telemetry.waiting() as every:
            every.append(telemetry.payload(event.kind, event.data))
            headers = {"Content-Type": "application/json", "User-Agent": "sintra"}
            try:
                answer = httpx.post(
                    self.url, content=telemetry.body(every), headers=headers, timeout=TIMEOUT_S
                )
            except (httpx.HTTPError, httpx.InvalidURL):
                return
            if answer.status_code < 500:  # refused is as good as taken: nothing is sent twice
                every.clear()

    def close(self) -> None:
        """Nothing is open."""


def check(options: dict[str, Any]) -> None:
    """It can't be asked for in a study's options."""
    raise UserError(
        "listeners has 'telemetry': that is turned on by `doit telemetry --on`, and by nothing else"
    )


LISTENER = Listener("telemetry", Counts, check)
