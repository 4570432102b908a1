"""Found by every Python that a fault run starts: counts what is about to change below a folder and,
at the named one, strikes.

FAULT is JSON: {"root", "log" (a file, or null), "match" (a regular expression on "event path"),
"at" (which match), "do"}. do: "kill" (doit and its worker), "worker" (the process that is about to
write), "fill" (the disk), "limit" (this process may write no byte more). Audit events come before
the system call: https://docs.python.org/3/library/audit_events.html
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys

GIVEN = json.loads(os.environ.get("FAULT", "null"))
CHANGES = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "sqlite3.connect",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DIGEST = re.compile(r"[0-9a-f]{32,64}")
busy = False


def changed(event, args):
    """The path that the event is about to change, or None."""
    if event == "open":
        path, mode, flags = args[:3]
        writes = set(mode or "") & set("wax+") or (mode is None and (flags or 0) & WRITES)
        return path if writes and isinstance(path, str | os.PathLike) else None
    if event in CHANGES:
        where = args[1] if event in ("os.rename", "os.link", "os.symlink") else args[0]
        return where if isinstance(where, str | os.PathLike) else None
    return None


def hook(event, args):
    """Called for every event of this process."""
    global busy
    if busy or (event != "open" and event not in CHANGES):
        return
    path = changed(event, args)
    if path is None:
        return
    path = os.path.abspath(os.fspath(path))  # noqa: PTH100 (links stay)
    if not path.startswith(GIVEN["root"]):
        return
    busy = True
    try:
        seen(f"{event} {path[len(GIVEN['root']) + 1 :]}")
    finally:
        busy = False


def seen(line):
    """Log the event; strike where it is the one."""
    if GIVEN["log"]:
        with open(GIVEN["log"], "a") as log:  # noqa: PTH123 (no pathlib in every process)
            log.write(line + "\n")
    if not GIVEN.get("match") or not re.search(GIVEN["match"], line):
        return
    handle = os.open(
        GIVEN["counter"], os.O_WRONLY | os.O_APPEND | os.O_CREAT
    )  # one byte a match, over all processes
    os.write(handle, b".")
    number = os.lseek(handle, 0, os.SEEK_CUR)
    os.close(handle)
    if number == GIVEN["at"]:
        strike(GIVEN["do"])


def strike(what):
    """The fault itself."""
    if what == "kill":
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(int(os.environ["SINTRA_PARENT"]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif what == "fill":
        handle = os.open(GIVEN["filler"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(handle, b"\0" * size)
        os.close(handle)


if GIVEN:
    sys.addaudithook(hook)
