"""Telemetry: off until the user turns it on; then a few counts for each study that ends.

They go to an address of the user's. No names of models or files, no prompts, no texts of errors, no
id of a person, a machine or a study: `TelemetryRecord` is all there is. DO_NOT_TRACK (any value but
0 and false) turns it off whatever the settings are. Without an address nothing can be sent.
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
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from sintra import __version__
from sintra.config.project import source_folder
from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.events import ENDS, Event, Listener, Setting
from sintra.store.files import write_atomic
from sintra.study.result_upgrade import parse_result

ENDPOINT = "SINTRA_TELEMETRY_ENDPOINT"  # a variable whose address goes before that of the settings
MAX_WAITING = 20  # records that wait while the address can't be reached
MAX_AGE_S = 7 * 86400  # seconds that a record waits
TIMEOUT_S = 5.0  # of a request


class Settings(TypedDict):
    """What the user has chosen, as it stands in the settings' file."""

    on: bool
    endpoint: str  # http(s) address; "" for none


class TelemetryRecord(TypedDict):
    """What is sent of a study's end. Sizes and times are powers of two."""

    schema: int
    day: str  # YYYY-MM-DD, UTC
    event: str  # met, unmet or failed
    sintra: str  # version
    python: str  # version, without the last part
    os: str
    machine: str  # architecture
    hardware: str | None  # device profile; "other" for one that isn't Sintra's
    author: str | None  # planner of the winner; "other" for one that isn't Sintra's
    format: str | None  # of the winner
    mb: int | None  # of the winner, MB
    rounds: int | None
    evaluations: int | None
    built: int | None  # steps
    cached: int | None  # steps
    failed: int | None  # steps
    seconds: int | None  # of the whole run


def do_not_track() -> bool:
    """Return whether DO_NOT_TRACK is set."""
    return os.environ.get("DO_NOT_TRACK", "").lower() not in ("", "0", "false")


def xdg_folder(variable: str, default: str) -> Path:
    """Return Sintra's folder in an XDG base directory; default: relative to the home folder."""
    return Path(os.environ.get(variable) or Path.home() / default) / "sintra"


def settings_path() -> Path:
    """Return where the settings are."""
    return xdg_folder("XDG_CONFIG_HOME", ".config") / "telemetry.json"


def queue_path() -> Path:
    """Return where the records are that wait to be sent."""
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "telemetry.jsonl"


def read_settings() -> Settings:
    """Read the user's settings; off where there are none, or they can't be read."""
    settings: Settings = {"on": False, "endpoint": ""}
    with contextlib.suppress(OSError, ValueError):
        settings.update(json.loads(settings_path().read_text()))
    return settings


def endpoint_url() -> str:
    """Return the address that records go to; "" for none."""
    return os.environ.get(ENDPOINT) or str(read_settings()["endpoint"])


def enabled_listeners() -> set[str]:
    """Return the name of the listener that sends, where the user has turned it on."""
    enabled = not do_not_track() and read_settings()["on"] and endpoint_url()
    return {"telemetry"} if enabled else set()


def telemetry_record(kind: str, result: Mapping[str, Any]) -> TelemetryRecord:
    """Return what is sent of a study's end.

    kind: met, unmet or failed; result: of the study (not all of it for failed).
    """
    winner, steps = result.get("winner") or {}, result.get("steps") or {}
    profiles = {path.stem for path in (source_folder() / "conf" / "hardware").glob("*.yaml")}
    planners = {e.name for e in plugins.own_entry_points() if e.group == "sintra.planners"} | {
        "study"
    }
    return {
        "schema": 1,
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "event": kind,
        "sintra": __version__,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "os": platform.system(),
        "machine": platform.machine(),
        "hardware": public_name(result.get("hardware"), profiles),
        "author": public_name(winner.get("author"), planners),
        "format": winner.get("recipe", {}).get("format", "gguf") if winner else None,
        "mb": power_of_two((winner.get("artifact") or {}).get("bytes", 0) / 1e6),
        "rounds": result.get("rounds"),
        "evaluations": result.get("evaluations"),
        "built": steps.get("built"),
        "cached": steps.get("cached"),
        "failed": steps.get("failed"),
        "seconds": power_of_two(result.get("wall_s", 0)),
    }


def public_name(name: str | None, own_names: Collection[str]) -> str | None:
    """Return a name of Sintra's own as it is, and "other" for any other."""
    return None if name is None else name if name in own_names else "other"


def power_of_two(value: float) -> int | None:
    """Return the smallest power of two, from 1, that isn't below a value; None up to zero."""
    return 2 ** max(0, math.ceil(math.log2(value))) if value > 0 else None


@contextlib.contextmanager
def waiting_records() -> Iterator[list[TelemetryRecord]]:
    """Lock the records that wait, and write them back when the context ends.

    The list may be changed. What is too old or too much is dropped.
    """
    path = queue_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        records = read_records(path)
        yield records
        first_day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - MAX_AGE_S))
        recent = [record for record in records if record["day"] >= first_day][-MAX_WAITING:]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in recent))


def read_records(path: Path) -> list[TelemetryRecord]:
    """Read the records of a file; none where it can't be read."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []


def latest_records(root: Path) -> list[TelemetryRecord]:
    """Return what the latest study of a project would send, were it to end now."""
    try:
        result = parse_result((root / "outputs" / "latest" / "result.json").read_text())
    except (OSError, ValueError):
        return []
    return [telemetry_record("met" if result["status"] == "pass" else "unmet", result)]


def request_body(records: list[TelemetryRecord]) -> str:
    """Return the request's body, byte for byte."""
    return json.dumps(records, indent=1)


def command(root: Path, on: bool, off: bool, show: bool, endpoint: str) -> None:
    """Run `doit telemetry`: turn it on or off, or show what would be sent. Raises UserError."""
    if on and off:
        raise UserError("--on and --off at once")
    if endpoint and not (on and urlsplit(endpoint).scheme in ("http", "https")):
        raise UserError("--endpoint takes an http(s) address, with --on")
    if on or off:
        settings: Settings = {"on": on, "endpoint": endpoint or read_settings()["endpoint"]}
        write_atomic(settings_path(), json.dumps(settings))
        if off:
            queue_path().unlink(missing_ok=True)
    print(status_line())
    if show:
        print(request_body([*read_records(queue_path()), *latest_records(root)]))


def status_line() -> str:
    """Describe in a line whether anything is sent."""
    if do_not_track():
        return "telemetry is off: DO_NOT_TRACK is set"
    if not read_settings()["on"]:
        return (
            "telemetry is off: `doit telemetry --on --endpoint URL` turns it on, --show shows "
            "what would be sent"
        )
    url = endpoint_url()
    if not url:
        return f"telemetry is on, but has no address (--endpoint, {ENDPOINT}): nothing can be sent"
    return (
        f"telemetry is on: the end of each study goes to {urlsplit(url).hostname}; `doit "
        "telemetry --off` ends that"
    )


class TelemetryListener:
    """The listener that sends a record at the end of each study."""

    def __init__(self, setting: Setting) -> None:
        self.url = endpoint_url()

    def hear(self, event: Event) -> None:
        """Send the record of a study's end, with those that wait.

        Where the address can't be reached, or answers with an error of its own, all of them wait.
        """
        if event.kind not in ENDS or not enabled_listeners():
            return
        import httpx  # only sending needs it

        with waiting_records() as records:
            records.append(telemetry_record(event.kind, event.data))
            headers = {"Content-Type": "application/json", "User-Agent": "sintra"}
            body = request_body(records)
            try:
                response = httpx.post(self.url, content=body, headers=headers, timeout=TIMEOUT_S)
            except (httpx.HTTPError, httpx.InvalidURL):
                return
            if response.status_code < 500:  # what is refused isn't sent again either
                records.clear()

    def close(self) -> None:
        """Do nothing: nothing is open."""


def check_not_an_option(options: Mapping[str, Any]) -> None:
    """Refuse telemetry in a study's options. Raises UserError."""
    raise UserError(
        "listeners has 'telemetry': that is turned on by `doit telemetry --on`, and by nothing else"
    )


LISTENER = Listener("telemetry", TelemetryListener, check_not_an_option)
