"""What an input may not do: end in an error that isn't ours, take too long, or write outside the
folder it is given.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sintra.core.rendering import jailed

LIMIT_S = 5.0
CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def own_child(event: str, args: tuple[Any, ...]) -> bool:
    """Whether this is the start of the child in which templates are rendered."""
    return event == "subprocess.Popen" and jailed.START in (args[1] or ())


class Hang(BaseException):
    """An input took longer than LIMIT_S."""


@dataclass
class Count:
    """What came of a target's inputs; the first few offenders of each kind, with their input."""

    inputs: int = 0
    tracebacks: int = 0
    hangs: int = 0
    outside: int = 0
    refused: int = 0
    found: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Everything that may not be."""
        return self.tracebacks + self.hangs + self.outside


class Guard:
    """Watches one process: installed once, since audit hooks can't be taken out."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.strayed: list[str] = []
        sys.dont_write_bytecode = True
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in STARTS and not own_child(event, args):
            self.strayed.append(f"{event} {args[0]!r}")
        path = None
        if event == "open":
            path = (
                args[0]
                if (set(args[1] or "") & set("wax+"))
                or (args[1] is None and (args[2] or 0) & WRITES)
                else None
            )
        elif event in CHANGES:
            path = args[1] if event in ("os.rename", "os.link", "os.symlink") else args[0]
            if event in ("os.remove", "os.rmdir") and args[1] != -1:
                path = None  # relative to a folder that shutil.rmtree has open
        if isinstance(path, str | bytes | os.PathLike):
            absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (resolve follows links)
            if not absolute.startswith(self.folder) and absolute != os.devnull:
                self.strayed.append(f"{event} {os.fsdecode(path)}")

    @contextlib.contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        """Every write outside the folder counts, and what takes too long is stopped."""
        self.strayed, self.folder = [], str(folder)
        timers = {
            signal.SIGPROF: (signal.ITIMER_PROF, LIMIT_S),
            signal.SIGALRM: (signal.ITIMER_REAL, 12 * LIMIT_S),
        }
        old = {number: signal.signal(number, _late) for number in timers}
        for (
            timer,
            limit,
        ) in (
            timers.values()
        ):  # time of this process's own, so that a busy machine is no hang; and by the clock
            signal.setitimer(timer, limit)
        try:
            yield
        finally:
            for number, (timer, _) in timers.items():
                signal.setitimer(timer, 0)
                signal.signal(number, old[number])
            self.folder = None

    def tried(
        self,
        count: Count,
        run: Callable[[bytes, Path], None],
        data: bytes,
        folder: Path,
        allowed: tuple[type, ...],
    ) -> None:
        """One input, counted."""
        count.inputs += 1
        try:
            with self.within(folder):
                run(data, folder)
        except allowed as error:
            count.refused += 1
            if "\n" in str(error).strip():
                count.tracebacks += 1
                count.found.append(f"more than a line: {str(error)[:200]!r} for {data[:200]!r}")
        except Hang:
            count.hangs += 1
            count.found.append(f"hang: {data[:300]!r}")
        except Exception:
            count.tracebacks += 1
            count.found.append(f"{traceback.format_exc()[-700:]} for {data[:300]!r}")
        if self.strayed:
            count.outside += 1
            count.found.append(f"outside: {self.strayed[0]} for {data[:300]!r}")
        del count.found[5:]


def _late(*_: object) -> None:
    raise Hang
