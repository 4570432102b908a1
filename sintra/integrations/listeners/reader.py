"""A listener's own process: `python -m sintra.integrations.listeners.reader NAME FILE`. Reads events as they are
written, until the study's process says that it is done, or is gone.

It has the lowest priority, and sleeps while a speed is being measured. What it prints is its log;
addresses in it are cut to their hosts, since those of webhooks are secrets.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sintra.core import plugins
from sintra.core.events import Event, Setting

PAUSE_S = 0.1
LONGEST_S = 120.0  # after the study's end
URL = re.compile(r"(\w+://)(?:[^\s/@'\"]*@)?([^\s/'\":?]+(?::\d+)?)[^\s'\")]*")
SECRET = re.compile(r"(URL|URLS|SECRET|TOKEN|KEY|PASSWORD)$")


def bare(text: str) -> str:
    """A text without secrets: addresses are cut to their hosts, values of secret variables are left
    out.
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 5 and "://" not in value:
            text = text.replace(value, f"${name}")
    return URL.sub(lambda m: f"{m[1]}{m[2]}/...", text)


def lines(path: Path, parent: int) -> Iterator[dict[str, Any]]:
    """Every event so far, then as they come; ends when the parent says so, or has died."""
    with path.open() as handle:
        handle.readline()
        while True:
            alive = (
                os.getppid() == parent
            )  # asked first: what it wrote before it died is still read
            while (line := whole(handle)) is not None:
                data = json.loads(line)
                if data["kind"] == "closed":
                    return
                yield data
            if not alive:
                return
            time.sleep(PAUSE_S)


def whole(handle: TextIO) -> str | None:
    """The next line, unless it is still being written."""
    start = handle.tell()
    line = handle.readline()
    if not line.endswith("\n"):
        handle.seek(start)
        return None
    return line


def quiet(cache: Path, parent: int) -> None:
    """Return when no speed is being measured on this cache."""
    with (cache / "lock" / "machine").open("a") as handle:
        while os.getppid() == parent:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(PAUSE_S)


def give_up(parent: int) -> None:
    """Ends this process for good, some time after the study's."""
    while os.getppid() == parent:
        time.sleep(PAUSE_S)
    time.sleep(LONGEST_S)
    print(f"given up {LONGEST_S:g} s after the study's end", file=sys.stderr, flush=True)
    os._exit(1)


def follow(name: str, path: Path) -> None:
    """Open the listener and hand it every event."""
    with path.open() as handle:
        head = json.loads(handle.readline())
    setting, parent = (
        Setting(head["options"], Path(head["root"]), Path(head["cache"])),
        head["parent"],
    )
    threading.Thread(target=give_up, args=[parent], daemon=True).start()
    (setting.cache / "lock").mkdir(exist_ok=True, mode=0o700)
    quiet(setting.cache, parent)
    hearing = plugins.load("listeners", name).open(setting)
    for data in lines(path, parent):
        quiet(setting.cache, parent)
        attempt(hearing.hear, Event(**data))
    attempt(hearing.close)


def attempt(function: Any, *args: Any) -> None:
    """Call it; what it raises is a line in the log."""
    try:
        function(*args)
    except Exception as error:
        print(
            bare(f"{type(error).__name__}: {' '.join(str(error).split())}")[:500],
            file=sys.stderr,
            flush=True,
        )


def main(argv: list[str]) -> int:
    """The process's entry."""
    os.nice(19)
    attempt(follow, argv[0], Path(argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
