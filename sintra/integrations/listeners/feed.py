"""The study's side of listeners: events are lines of a file, which listeners' processes read.

An event costs the study a line in a file. What the listeners of a study have received once isn't
published again, so that a run which changes nothing is silent; a listener that is new to a study
receives everything from its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, get_args

from sintra.core import plugins
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError, nearest
from sintra.core.events import Event, Kind
from sintra.integrations.listeners import telemetry
from sintra.store.files import unique_name, write_atomic

READER = "sintra.integrations.listeners.reader"
FOLDER = "told"  # in the cache: event files, logs of listeners, what was published
WAIT_S = 0.5  # seconds for listeners, when everything else is done
KEEP_S = 86400.0  # seconds after which files of old runs are removed


class FeedHeader(TypedDict):
    """The first line of a file of events."""

    options: Mapping[str, Any]  # the study's composed configuration
    root: str  # the project's folder, absolute
    cache: str  # absolute
    parent: int  # id of the process that writes events


class PublishedState(TypedDict):
    """What the listeners of one study have received, as it stands in its file."""

    listeners: list[str]  # their names; other listeners begin anew
    rounds: int  # rounds that are over, counted from 1
    result: str  # hex SHA-256 of the result; "" for none


def check_listeners(conf: Mapping[str, Any]) -> None:
    """Check that the configured listeners exist and have what they need.

    conf: the composed configuration. Raises UserError, a line.
    """
    for kind in conf["notify"]["on"]:
        if kind not in get_args(Kind):
            raise UserError(f"notify.on has {kind!r}: {nearest(kind, get_args(Kind))}")
    for name in conf["listeners"]:
        try:
            listener = plugins.load("listeners", name)
        except UserError:
            raise
        except Exception as error:  # somebody else's module
            raise UserError(
                f"listeners has {name!r}, which can't be loaded: {type(error).__name__}: {error}"
            ) from None
        listener.check(conf)


class PublishedEvents:
    """What the listeners of one study have received already, kept in a file."""

    def __init__(self, path: Path, listeners: list[str]) -> None:
        self.path = path
        self.state: PublishedState = {"listeners": listeners, "rounds": 0, "result": ""}
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(path.read_text())
            if state.get("listeners") == listeners:
                self.state = state

    def note_rounds(self, count: int) -> None:
        """Note that so many rounds have been published."""
        self.state["rounds"] = count
        self._write()

    def note_result(self, digest: str) -> None:
        """Note that the result with this digest has been published."""
        self.state["result"] = digest
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            write_atomic(self.path, json.dumps(self.state))


class Feed:
    """The events of this process, for all listeners.

    Nothing here raises: a study never fails because of a listener.
    """

    def __init__(self) -> None:
        self.file: Path | None = None  # of events; made with the first one
        self.processes: dict[str, subprocess.Popen[bytes]] = {}  # by the listener's name
        self.started: set[str] = set()  # studies whose first event is out
        self.ended: set[str] = set()  # studies whose last event is out

    def publish(
        self,
        conf: Mapping[str, Any],
        listeners: Iterable[str],
        root: Path,
        cache: Path,
        event: Event,
    ) -> None:
        """Write an event. The first one starts the listeners."""
        with contextlib.suppress(OSError):
            if self.file is None:
                self.file = create_event_file(conf, root, cache)
            append_line(self.file, asdict(event))
            for name in listeners:
                if name not in self.processes:
                    self.processes[name] = start_listener(name, self.file)

    def close(self) -> list[str]:
        """End the feed, and give listeners a moment.

        Returns a line for the user for each listener that complains or is still at work.
        """
        if self.file is None:
            return []
        lines = []
        with contextlib.suppress(OSError):
            append_line(self.file, {"kind": "closed"})
            deadline = time.monotonic() + WAIT_S
            for name, process in self.processes.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                if complaint := last_log_line(log_path(self.file, name)):
                    lines.append(f"listener {name}: {complaint}")
                elif process.poll() is None:
                    lines.append(f"listener {name} is still at work, and goes on alone")
        return lines


def create_event_file(conf: Mapping[str, Any], root: Path, cache: Path) -> Path:
    """Create a file of events with its header; remove what old runs left. Raises OSError."""
    folder = cache / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in folder.glob("*.*"):
        if path.suffix in (".jsonl", ".log") and path.stat().st_mtime < time.time() - KEEP_S:
            path.unlink(missing_ok=True)
    file = folder / f"{unique_name()[:12]}.jsonl"
    header: FeedHeader = {
        "options": conf,
        "root": str(root.resolve()),
        "cache": str(cache.resolve()),
        "parent": os.getpid(),
    }
    file.write_text(json.dumps(header) + "\n")
    return file


def append_line(file: Path, line: Mapping[str, object]) -> None:
    """Append an event to a file of events. Raises OSError."""
    with file.open("a") as handle:
        handle.write(json.dumps(line) + "\n")


def start_listener(name: str, file: Path) -> subprocess.Popen[bytes]:
    """Start a listener's process, which Ctrl-C and our own end don't reach. Raises OSError."""
    with log_path(file, name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", READER, name, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def log_path(file: Path, name: str) -> Path:
    """Return where a listener's log lies, beside the file of events."""
    return file.with_suffix(f".{name}.log")


def last_log_line(path: Path) -> str:
    """Return the last line of a log; "" where there is none. Raises OSError."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else ""


class StudyFeed:
    """One study's events."""

    def __init__(
        self, conf: Mapping[str, Any], study: str, root: Path, cache: Path, feed: Feed
    ) -> None:
        self.conf = conf  # the composed configuration
        self.study = study  # its name
        self.root = root  # the project's folder
        self.cache = cache
        self.feed = feed
        self.listeners = sorted({*conf["listeners"], *telemetry.enabled_listeners()})
        published = cache / FOLDER / "heard" / f"{study}.json"
        self.published = PublishedEvents(published, self.listeners)

    def publish(self, kind: Kind, data: Mapping[str, Any], at: float | None = None) -> None:
        """Publish an event, if anybody listens. at: seconds since the epoch, by default now."""
        if self.listeners:
            event = Event(kind, self.study, time.time() if at is None else at, dict(data))
            self.feed.publish(self.conf, self.listeners, self.root, self.cache, event)

    def publish_start(self, data: Mapping[str, Any]) -> None:
        """Publish the study's first event, once in this process."""
        if self.study not in self.feed.started:
            self.feed.started.add(self.study)
            self.publish("started", data)

    def publish_round(
        self,
        number: int,
        data: Mapping[str, Any],
        candidates: Iterable[Mapping[str, Any]],
        at: float,
    ) -> None:
        """Publish a round that was over at that time, and what was measured in it."""
        self.publish("round", {"number": number, **data}, at)
        for row in candidates:
            self.publish("candidate", row, at)
        self.published.note_rounds(number)

    def unpublished_digest(self, result: Mapping[str, Any]) -> str:
        """Return a result's digest, or "" where the listeners have received it."""
        digest = sha256(canonical(result))
        return "" if self.published.state["result"] == digest else digest

    def publish_end(self, result: Mapping[str, Any], digest: str) -> None:
        """Publish the study's end. digest: of the result, from unpublished_digest."""
        self.mark_ended()
        self.publish("met" if result["status"] == "pass" else "unmet", result)
        self.published.note_result(digest)

    @property
    def has_ended(self) -> bool:
        """Return whether the study's end is known in this process."""
        return self.study in self.feed.ended

    def mark_ended(self) -> None:
        """Note that the study's end is known, so that it can't be published as failed."""
        self.feed.ended.add(self.study)
