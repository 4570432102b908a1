"""Which studies are running: each `optimize` leaves a note in its study's folder and holds a lock
while it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO, TypedDict, cast

from sintra.store.files import make_folder, open_regular, read_regular, write_atomic
from sintra.store.locks import open_lock
from sintra.study.workspace import Workspace

NOTE, LOCK = "running.json", "running.lock"
_locks: list[BinaryIO] = []  # locks end with the process, however it ends


class RunNote(TypedDict):
    """What the last `optimize` of a study left."""

    pid: int
    started: float  # Unix time, seconds
    overrides: list[str]  # the study's options, by which others can open it
    alive: bool  # whether that process still runs; not in the file


def note_run(workspace: Workspace) -> None:
    """Leave a note that this process works on the study, and lock it.

    A disk that is full or read-only is left to the work itself to report.
    """
    with contextlib.suppress(OSError):
        make_folder(workspace.folder)
        handle = open_lock(workspace.folder / LOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process works on it already
            handle.close()
            return
        _locks.append(handle)
        _write_note(workspace)


def _write_note(workspace: Workspace) -> None:
    note = {
        "pid": os.getpid(),
        "started": time.time(),
        "overrides": list(workspace.study.overrides),
    }
    write_atomic(workspace.folder / NOTE, json.dumps(note) + "\n")


def read_run_note(folder: Path) -> RunNote | None:
    """Read what the last `optimize` of a study left in its folder, and whether it still runs."""
    try:
        note = json.loads(read_regular(folder / NOTE))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(note, dict) or not set(RunNote.__annotations__) - {"alive"} <= set(note):
        return None
    return cast(RunNote, note | {"alive": is_running(folder)})


def is_running(folder: Path) -> bool:
    """Return whether a process holds the study's lock."""
    try:
        with open_regular(folder / LOCK) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def cancel_run(folder: Path) -> bool:
    """Stop the study's process as Ctrl-C does: what is finished is kept. False where none runs."""
    note = read_run_note(folder)
    if not note or not note["alive"]:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(note["pid"]), signal.SIGTERM)
    return True
