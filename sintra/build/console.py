"""What a run says while it goes on: lines, one live line on a terminal, JSON, or nothing.

Progress goes to stderr, results alone to stdout. Everything of a run goes through one `Console`, so
that lines of several threads don't mix.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sintra.core.errors import UserError
from sintra.core.stage import PROGRESS_MARK
from sintra.core.text import printable_line, printable_text

if TYPE_CHECKING:  # loaded with the first live line
    from tqdm import tqdm

MODES = ("auto", "plain", "quiet", "json")
REFRESH_S, REMIND_S = 0.5, 300.0  # between two looks, and two lines on one step, seconds
COUNTED = re.compile(r"(\d+) of (\d+)")  # as workers say how far they are
LINE_WIDTH, CLOCK_WIDTH = 79, 8  # columns of a step's line on a terminal, and of its duration
TAIL_BYTES = 2000  # of a worker's log, in which its last line is looked for
COLORS = {
    "built": "2",
    "failed": "31",
    "pass": "32",
    "fail": "33",
    "again": "33",
}  # first word of a line -> SGR code: dim, red, green, yellow


@dataclass
class RunningStep:
    """A step under way."""

    usual_s: float | None  # what such a step usually takes, s; None: not known
    start: float = field(default_factory=time.monotonic)  # on the clock of time.monotonic(), s
    log_path: Path | None = None  # where its worker's log will be
    log: TextIO | None = None  # the log, held open, since the file goes with the worker
    partial_line: str = ""  # what has been read of a line that isn't complete yet

    def new_marked_lines(self) -> list[str]:
        """Return the marked lines of the log that have come since the last call."""
        if self.log is None:
            return []
        *lines, self.partial_line = (self.partial_line + self.log.read()).split("\n")
        return [
            line.removeprefix(PROGRESS_MARK) for line in lines if line.startswith(PROGRESS_MARK)
        ]

    def status(self, now: float) -> str:
        """Describe how long it has run, how long such a step takes, and its worker's last line."""
        seconds = now - self.start
        usual = (
            f" of about {format_seconds(self.usual_s)}"
            if self.usual_s and self.usual_s > seconds
            else ""
        )
        last = last_log_line(self.log_path) if self.log_path else ""
        return f"{format_seconds(seconds)}{usual}" + (f", {with_percent(last)}" if last else "")


class Console:
    """The progress of one run, on stderr."""

    def __init__(self) -> None:
        self.mode = "auto"
        """auto (a live line on a terminal, else plain), plain, quiet or json."""
        self.lock = threading.RLock()
        """Held while a line is written or a step begins or ends."""
        self.running: dict[str, RunningStep] = {}
        """Steps under way, by name."""
        self.finished_steps = 0
        self.expected_steps = 0
        """Steps that this run knows it will build."""
        self.thread: threading.Thread | None = None
        """Draws or reminds while steps run."""
        self.bar: tqdm[Any] | None = None
        """The live line, while there is one."""
        self.reminded: dict[str, float] = {}
        """Step -> when it was last spoken of, on the clock of time.monotonic(), s."""
        self.shown: dict[str, str] = {}
        """Part of a step's name that people can't read -> what they read in its place."""
        self.titles: dict[str, str] = {}
        """Step's name -> what a terminal shows in its place."""

    def configure(self, mode: str) -> None:
        """Set the mode from the option `progress`. Raises UserError."""
        if mode not in MODES:
            raise UserError(f"progress={mode} isn't known: use one of {', '.join(MODES)}")
        self.mode = mode

    def name_steps(self, shown: Mapping[str, str]) -> None:
        """Take what people read in the place of parts of steps' names."""
        with self.lock:
            self.shown |= shown

    def title_steps(self, titles: Mapping[str, str]) -> None:
        """Take what a terminal shows in the place of steps' names."""
        with self.lock:
            self.titles |= titles

    def title(self, name: str) -> str:
        """Return what stands for a step: its title on a terminal, its name in logs."""
        return self.titles.get(name, name) if self.live else name

    def step_line(self, how: str, name: str, seconds: float) -> str:
        """Return the line of a step that has ended: counted and in words on a terminal.

        how: "built" or "pulled"; other lines than a terminal's are for logs, with the step's name.
        """
        if (title := self.title(name)) == name:
            return f"{how:<7} {name}  {seconds:.1f} s"
        total = max(self.expected_steps, self.finished_steps)
        count = f"[{self.finished_steps:>{len(str(total))}}/{total}]"
        room = LINE_WIDTH - len(count) - CLOCK_WIDTH - 1
        return f"{count} {shortened(title, room):<{room}}{clock(seconds):>{CLOCK_WIDTH}}"

    def readable(self, text: str) -> str:
        """Return a text with names of steps as people read them."""
        for part, words in self.shown.items():
            text = text.replace(part, words)
        return text

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.mode == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str, event: str = "line", **fields: object) -> None:
        """Print a line of progress; fields stand beside it in JSON mode only.

        Worker's logs and others' rounds speak here, so nothing is printed that a terminal obeys.
        """
        text = self.readable(printable_text(text))
        with self.lock:
            if self.mode == "quiet":
                return
            line = (
                json.dumps({"event": event, "text": text} | fields)
                if self.mode == "json"
                else self.colored(text)
            )
            if self.bar is not None:
                self.bar.clear()
            print(line, file=sys.stderr, flush=True)
            if self.bar is not None:
                self.bar.refresh()

    def colored(self, text: str) -> str:
        """Return a line in color on a terminal, unless NO_COLOR is set (no-color.org)."""
        if not self.live or os.environ.get("NO_COLOR"):
            return text
        color = COLORS.get(text.split(maxsplit=1)[0].rstrip(":") if text.strip() else "")
        return f"\x1b[{color}m{text}\x1b[0m" if color else text

    @contextlib.contextmanager
    def show_step(self, name: str, usual_s: float | None = None) -> Iterator[None]:
        """Show a step as under way until the block ends."""
        with self.lock:
            self.running[name] = RunningStep(usual_s)
            self._start_thread()
        try:
            yield
        finally:
            with self.lock:
                self._repeat_log(name)
                if (ended := self.running.pop(name)).log is not None:
                    ended.log.close()
                self.finished_steps += 1
                if not self.running:
                    self._close_bar()

    def expect_log(self, name: str, path: Path) -> None:
        """Note where a step's worker will write its log."""
        with self.lock:
            if name in self.running:
                self.running[name].log_path = path

    def open_log(self, path: Path) -> None:
        """Open a worker's log, now that the worker has started."""
        with self.lock:
            for step in self.running.values():
                if step.log_path == path and step.log is None:
                    with contextlib.suppress(FileNotFoundError):
                        step.log = path.open(errors="replace")

    def _repeat_log(self, name: str) -> None:
        for line in self.running[name].new_marked_lines():
            self.say(f"{self.title(name)}: {line}", "progress", step=name)

    def _start_thread(self) -> None:
        if self.mode == "quiet" or (self.thread and self.thread.is_alive()):
            return
        self.thread = threading.Thread(target=self._watch_steps, daemon=True, name="console")
        self.thread.start()

    def _watch_steps(self) -> None:
        """Draw, or remind of what takes long, until nothing runs."""
        while True:
            with self.lock:
                if not self.running:
                    return
                for name in self.running:
                    self._repeat_log(name)
                self._draw() if self.live else self._remind()
            time.sleep(REFRESH_S)

    def _draw(self) -> None:
        from tqdm import tqdm  # not on the no-op path

        columns = shutil.get_terminal_size().columns
        if self.bar is None:
            self.bar = tqdm(bar_format="{desc}", leave=False, file=sys.stderr)
        self.bar.ncols = columns
        name, step = next(iter(self.running.items()))
        others = f" (+{len(self.running) - 1})" if len(self.running) > 1 else ""
        total = max(self.expected_steps, self.finished_steps + len(self.running))
        count = f"[{self.finished_steps + 1}/{total}] "
        text = count + self.title(name) + others + ": " + step.status(time.monotonic())
        self.bar.set_description_str(self.readable(printable_line(text))[: columns - 1])

    def _remind(self) -> None:
        now = time.monotonic()
        for name, step in self.running.items():
            if now - self.reminded.get(name, step.start) >= REMIND_S:
                self.reminded[name] = now
                self.say(
                    f"running {name}: {step.status(now)}",
                    "progress",
                    step=name,
                    seconds=now - step.start,
                )

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def last_log_line(path: Path) -> str:
    """Return the last line that a worker has written, without its mark; "" where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()
    return next((x.strip().removeprefix(PROGRESS_MARK) for x in reversed(lines) if x.strip()), "")


def with_percent(text: str) -> str:
    """Return a worker's line with percent in front where it counts: `11 %: block 1 of 9`."""
    found = COUNTED.search(text)
    if found is None or not 0 < int(found[2]) >= int(found[1]):
        return text
    return f"{100 * int(found[1]) // int(found[2])} %: {text}"


def shortened(text: str, columns: int) -> str:
    """Return a text in at most so many columns, its end left out where it is longer."""
    return text if len(text) <= columns else f"{text[: columns - 3]}..."


def clock(seconds: float) -> str:
    """Return a duration as `0:07`, `3:20` or `1:03:20`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_seconds(seconds: float) -> str:
    """Return a duration as `8 s`, `3 min` or `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
