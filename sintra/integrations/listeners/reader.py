"""A listener's own process: `python -m sintra.integrations.listeners.reader NAME FILE`.

It reads events as they are written, until the study's process ends the file or is gone. It has the
lowest priority, and sleeps while a speed is being measured. What it prints is its log; addresses in
it are cut to their hosts, since those of webhooks are secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO

from sintra.core import plugins
from sintra.core.events import Event, Setting

if TYPE_CHECKING:
    from sintra.integrations.listeners.feed import FeedHeader

PAUSE_S = 0.1  # seconds between two looks
LONGEST_S = 120.0  # seconds that a listener may take after the study's end
URL = re.compile(r"(\w+://)(?:[^\s/@'\"]*@)?([^\s/'\":?]+(?::\d+)?)[^\s'\")]*")
SECRET = re.compile(r"(URL|URLS|SECRET|TOKEN|KEY|PASSWORD)$")  # names of variables
P = ParamSpec("P")


def redact(text: str) -> str:
    """Return a text without secrets.

    Addresses are cut to their hosts; a secret variable's value becomes the variable's name.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 5 and "://" not in value:
            text = text.replace(value, f"${name}")
    return URL.sub(lambda match: f"{match[1]}{match[2]}/...", text)


def read_header(path: Path) -> FeedHeader:
    """Read the first line of a file of events."""
    with path.open() as handle:
        header: FeedHeader = json.loads(handle.readline())
    return header


def read_events(path: Path, parent: int) -> Iterator[Event]:
    """Yield every event so far, then as they come; end when the parent says so or has died.

    parent: id of the process that writes the file.
    """
    with path.open() as handle:
        handle.readline()
        while True:
            # asked first: what it wrote before it died is still read
            alive = os.getppid() == parent
            while (line := read_complete_line(handle)) is not None:
                data: dict[str, Any] = json.loads(line)
                if data["kind"] == "closed":
                    return
                yield Event(**data)
            if not alive:
                return
            time.sleep(PAUSE_S)


def read_complete_line(handle: TextIO) -> str | None:
    """Read the next line; None where it is still being written, and then nothing is read."""
    start = handle.tell()
    line = handle.readline()
    if not line.endswith("\n"):
        handle.seek(start)
        return None
    return line


def wait_for_measurement(cache: Path, parent: int) -> None:
    """Return when no speed is being measured on this cache, or the parent has died."""
    with (cache / "lock" / "machine").open("a") as handle:
        while os.getppid() == parent:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(PAUSE_S)


def exit_after_study(parent: int) -> None:
    """End this process for good, some time after the study's."""
    while os.getppid() == parent:
        time.sleep(PAUSE_S)
    time.sleep(LONGEST_S)
    print(f"given up {LONGEST_S:g} s after the study's end", file=sys.stderr, flush=True)
    os._exit(1)


def run_listener(name: str, path: Path) -> None:
    """Open a listener and hand it every event of a file."""
    header = read_header(path)
    parent, cache = header["parent"], Path(header["cache"])
    setting = Setting(dict(header["options"]), Path(header["root"]), cache)
    threading.Thread(target=exit_after_study, args=[parent], daemon=True).start()
    (cache / "lock").mkdir(exist_ok=True, mode=0o700)
    wait_for_measurement(cache, parent)
    listener = plugins.load("listeners", name).open(setting)
    for event in read_events(path, parent):
        wait_for_measurement(cache, parent)
        call_logged(listener.hear, event)
    call_logged(listener.close)


def call_logged(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a function; what it raises becomes a line in the log."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        line = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
        print(line[:500], file=sys.stderr, flush=True)


def reader_main(argv: list[str]) -> int:
    """Run the listener that the command line names, and return the process's exit code."""
    os.nice(19)
    call_logged(run_listener, argv[0], Path(argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(reader_main(sys.argv[1:]))
