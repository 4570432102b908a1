"""What a run says while it goes on: lines, one live line on a terminal, JSON, or nothing.

Progress goes to stderr, results alone to stdout. Everything of a run goes through here, so that
lines of several threads don't mix.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.stage import PROGRESS_MARK

MODES = ("auto", "plain", "quiet", "json")
REFRESH_S, REMIND_S = 0.5, 60.0
TAIL = 2000
COLOURS = {
    "built": "2",
    "failed": "31",
    "met": "32",
    "unmet": "33",
    "again": "33",
}  # SGR: dim, red, green, yellow


class Running:
    """A step under way: since when (time.monotonic), the seconds that such a step usually takes,
    its worker's log, and what of that has been read.
    """

    def __init__(self, usual: float | None) -> None:
        self.start, self.usual = time.monotonic(), usual
        self.path: Path | None = None
        self.log: Any = None
        self.part = ""

    def marked(self) -> list[str]:
        """The marked lines that are new."""
        if self.log is None:
            return []
        *lines, self.part = (self.part + self.log.read()).split("\n")
        return [
            line.removeprefix(PROGRESS_MARK) for line in lines if line.startswith(PROGRESS_MARK)
        ]


class Console:
    """mode: auto (live on a terminal, else plain), plain, quiet or json; usual: seconds that a
    stage's steps take; ahead: steps that this run knows it will look at.
    """

    def __init__(self) -> None:
        self.mode = "auto"
        self.lock = threading.RLock()
        self.running: dict[str, Running] = {}
        self.done, self.ahead = 0, 0
        self.thread: threading.Thread | None = None
        self.bar: Any = None
        self.reminded: dict[str, float] = {}

    def configure(self, mode: str) -> None:
        """From the option `progress`. Raises UserError."""
        if mode not in MODES:
            raise UserError(f"progress={mode} isn't known: use one of {', '.join(MODES)}")
        self.mode = mode

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.mode == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str, event: str = "line", **fields: Any) -> None:
        """A line of progress."""
        with self.lock:
            if self.mode == "quiet":
                return
            line = (
                json.dumps({"event": event, "text": text} | fields)
                if self.mode == "json"
                else self.painted(text)
            )
            if self.bar is not None:
                self.bar.clear()
            print(line, file=sys.stderr, flush=True)
            if self.bar is not None:
                self.bar.refresh()

    def painted(self, text: str) -> str:
        """With colour on a terminal (NO_COLOR, no-color.org, leaves it out)."""
        if not self.live or os.environ.get("NO_COLOR"):
            return text
        colour = COLOURS.get(text.split(maxsplit=1)[0].rstrip(":") if text.strip() else "")
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text

    @contextlib.contextmanager
    def step(self, name: str, usual: float | None = None) -> Iterator[None]:
        """A step under way. usual: seconds that such a step takes, where that is known."""
        with self.lock:
            self.running[name] = Running(usual)
            self._watch()
        try:
            yield
        finally:
            with self.lock:
                self._follow(name)
                if (ended := self.running.pop(name)).log is not None:
                    ended.log.close()
                self.done += 1
                if not self.running:
                    self._close()

    def log(self, name: str, path: Path) -> None:
        """Where a step's worker says what it is doing."""
        with self.lock:
            if name in self.running:
                self.running[name].path = path

    def opened(self, path: Path) -> None:
        """A worker's log is there now; it is held open, since it goes with the worker."""
        with self.lock:
            for running in self.running.values():
                if running.path == path and running.log is None:
                    running.log = path.open(errors="replace")

    def _follow(self, name: str) -> None:
        for line in self.running[name].marked():
            self.say(f"{name}: {line}", "progress", step=name)

    def _watch(self) -> None:
        if self.mode == "quiet" or (self.thread and self.thread.is_alive()):
            return
        self.thread = threading.Thread(target=self._loop, daemon=True, name="console")
        self.thread.start()

    def _loop(self) -> None:
        """Draw, or remind of what takes long, until nothing runs."""
        while True:
            with self.lock:
                if not self.running:
                    return
                for name in self.running:
                    self._follow(name)
                self._draw() if self.live else self._remind()
            time.sleep(REFRESH_S)

    def _draw(self) -> None:
        from tqdm import tqdm

        columns = shutil.get_terminal_size().columns
        if self.bar is None:
            self.bar = tqdm(bar_format="{desc}", leave=False, file=sys.stderr)
        self.bar.ncols = columns
        name, now = next(iter(self.running.items()))
        others = f" (+{len(self.running) - 1})" if len(self.running) > 1 else ""
        count = f"[{self.done + 1}/{max(self.ahead, self.done + len(self.running))}] "
        text = (
            count + name + others + ": " + state(time.monotonic() - now.start, now.usual, now.path)
        )
        self.bar.set_description_str(text[: columns - 1])

    def _remind(self) -> None:
        now = time.monotonic()
        for name, each in self.running.items():
            if now - self.reminded.get(name, each.start) >= REMIND_S:
                self.reminded[name] = now
                seconds = now - each.start
                self.say(
                    f"still   {name}: {state(seconds, each.usual, each.path)}",
                    "progress",
                    step=name,
                    seconds=seconds,
                )

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def state(seconds: float, usual: float | None, path: Path | None) -> str:
    """How long a step has run, how long such a step takes, and the last thing that its worker said."""
    often = f" of about {span(usual)}" if usual and usual > seconds else ""
    last = last_line(path) if path else ""
    return f"{span(seconds)}{often}" + (f", {last}" if last else "")


def last_line(path: Path) -> str:
    """The last thing that a worker has said."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return next(
        (
            x.strip().removeprefix(PROGRESS_MARK)
            for x in reversed(text.replace("\r", "\n").splitlines())
            if x.strip()
        ),
        "",
    )


def span(seconds: float) -> str:
    """A duration: 8 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


CONSOLE = Console()


FAILURES: list[str] = []  # what went wrong in this run, a text each


say = CONSOLE.say
