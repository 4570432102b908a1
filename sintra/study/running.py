"""Which studies are being worked on: each `optimize` leaves word in its study's folder and holds a
lock while it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, TextIO

from sintra.store.files import write_atomic
from sintra.study.workspace import Workspace

NOTE, LOCK = "running.json", "running.lock"
_held: list[TextIO] = []  # locks end with the process, however it ends


def note(workspace: Workspace, ended: bool) -> None:
    """Say that this process works on the study, with its options, so that others can open it.
    ended: nothing is left to do, and nothing is written. A disk that is full or read-only is for
    the work itself to complain of.
    """
    if not ended:
        with contextlib.suppress(OSError):
            _note(workspace)


def _note(workspace: Workspace) -> None:
    workspace.folder.mkdir(parents=True, exist_ok=True)
    handle = (workspace.folder / LOCK).open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another process is at it already
        handle.close()
        return
    _held.append(handle)
    said = {
        "pid": os.getpid(),
        "started": time.time(),
        "overrides": list(workspace.study.overrides),
    }
    write_atomic(workspace.folder / NOTE, json.dumps(said) + "\n")


def noted(folder: Path) -> dict[str, Any] | None:
    """What the last `optimize` of a study left: pid, started (Unix time), overrides, and `alive`,
    whether it still runs.
    """
    try:
        found: dict[str, Any] = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None
    return found | {"alive": alive(folder)}


def alive(folder: Path) -> bool:
    """Whether a process holds the study's lock."""
    try:
        with (folder / LOCK).open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def cancel(folder: Path) -> bool:
    """Tell the study's process to stop, as Ctrl-C does: what is finished is kept. False where none
    is at it.
    """
    found = noted(folder)
    if not found or not found["alive"]:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(found["pid"]), signal.SIGTERM)
    return True
