"""The study's side of listeners: events are lines of a file, and each listener is a process that
reads them.

Telling costs the study a line in a file. What the listeners of a study have been told once isn't
told again, so that a run which changes nothing is silent; a listener that is new to a study is told
everything from its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from sintra.core import plugins
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError, nearest
from sintra.core.events import Event, Kind
from sintra.integrations.listeners import telemetry
from sintra.store.files import unique, write_atomic

WAIT_S = 0.5  # for listeners, when everything else is done
OLD_S = 86400.0


def check(conf: dict[str, Any]) -> None:
    """Whether the configured listeners exist and have what they need. Raises UserError in one line."""
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


class Heard:
    """What the listeners of one study have been told already: rounds, and the digest of the result."""

    def __init__(self, path: Path, listeners: list[str]) -> None:
        self.path, self.listeners = path, listeners
        blank: dict[str, Any] = {"listeners": listeners, "rounds": 0, "result": ""}
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = blank
        self.known = known if known.get("listeners") == listeners else blank

    def note(self, **more: Any) -> None:
        """Remember it."""
        self.known |= more
        with contextlib.suppress(OSError):
            write_atomic(self.path, json.dumps(self.known))


class Feed:
    """The events of this process, to all listeners. Nothing here raises: a study never fails for
    the sake of a listener.
    """

    def __init__(self) -> None:
        self.spool: Path | None = None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: set[str] = set()
        self.ended: set[str] = set()

    def tell(
        self, conf: dict[str, Any], listeners: list[str], root: Path, cache: Path, event: Event
    ) -> None:
        """One more event; the first starts the listeners."""
        with contextlib.suppress(OSError):
            if self.spool is None:
                self.spool = self.open(conf, root, cache)
            self.write(asdict(event))
            for name in listeners:
                if name not in self.processes:
                    self.processes[name] = self.start(name)

    def open(self, conf: dict[str, Any], root: Path, cache: Path) -> Path:
        """A new file of events; what old runs left is removed."""
        folder = cache / "told"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in folder.glob("*.*"):
            if path.suffix in (".jsonl", ".log") and path.stat().st_mtime < time.time() - OLD_S:
                path.unlink(missing_ok=True)
        spool = folder / f"{unique()[:12]}.jsonl"
        head = {
            "options": conf,
            "root": str(root.resolve()),
            "cache": str(cache.resolve()),
            "parent": os.getpid(),
        }
        spool.write_text(json.dumps(head) + "\n")
        return spool

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        assert self.spool is not None
        with self.spool.open("a") as handle:
            handle.write(json.dumps(line) + "\n")

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """A listener, out of reach of Ctrl-C and of our end."""
        assert self.spool is not None
        with self.log(name).open("wb") as log:
            command = [
                sys.executable,
                "-m",
                "sintra.integrations.listeners.reader",
                name,
                str(self.spool),
            ]
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, name: str) -> Path:
        """What a listener has to say."""
        assert self.spool is not None
        return self.spool.with_suffix(f".{name}.log")

    def close(self) -> list[str]:
        """The end of this process: give listeners a moment, and return a line for each that has
        complained or goes on.
        """
        if self.spool is None:
            return []
        lines = []
        with contextlib.suppress(OSError):
            self.write({"kind": "closed"})
            until = time.monotonic() + WAIT_S
            for name, process in self.processes.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
                said = (
                    self.log(name).read_text(errors="replace").strip().splitlines()
                    if self.log(name).exists()
                    else []
                )
                if said:
                    lines.append(f"listener {name}: {said[-1]}")
                elif process.poll() is None:
                    lines.append(f"listener {name} is still at work, and goes on alone")
        return lines


class Teller:
    """One study's events."""

    def __init__(
        self, conf: dict[str, Any], study: str, root: Path, cache: Path, feed: Feed
    ) -> None:
        self.conf, self.study, self.root, self.cache, self.feed = conf, study, root, cache, feed
        self.listeners = sorted({*conf["listeners"], *telemetry.chosen()})
        self.heard = Heard(cache / "told" / "heard" / f"{study}.json", self.listeners)

    def tell(self, kind: Kind, data: dict[str, Any], at: float | None = None) -> None:
        """An event, if anybody listens."""
        if self.listeners:
            event = Event(kind, self.study, time.time() if at is None else at, data)
            self.feed.tell(self.conf, self.listeners, self.root, self.cache, event)

    def begin(self, data: dict[str, Any]) -> None:
        """The study's first event in this process."""
        if self.study not in self.feed.started:
            self.feed.started.add(self.study)
            self.tell("started", data)

    def round(
        self, number: int, data: dict[str, Any], candidates: list[dict[str, Any]], at: float
    ) -> None:
        """A round that is over, at that time, and what was measured in it."""
        self.tell("round", {"number": number} | data, at)
        for row in candidates:
            self.tell("candidate", row, at)
        self.heard.note(rounds=number)

    def news(self, result: dict[str, Any]) -> str:
        """The digest of a result that the listeners haven't been told, or "" where they have."""
        digest = sha256(canonical(result))
        return "" if self.heard.known["result"] == digest else digest

    def end(self, result: dict[str, Any], digest: str) -> None:
        """The study's end."""
        self.feed.ended.add(self.study)
        self.tell("met" if result["status"] == "met" else "unmet", result)
        self.heard.note(result=digest)
