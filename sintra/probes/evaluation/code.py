"""Does a program that a model wrote pass its tests? It runs in a child (jail.py), never in this
process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

JAIL = Path(__file__).with_name("jail.py")
SECONDS, MEGABYTES = 10, 512


@dataclass(frozen=True)
class ProgramOutcome:
    """passed: the program and its tests ran to their end; else why not, in a few words."""

    passed: bool
    why: str


def run_tests(
    program: str, tests: str, seconds: int = SECONDS, megabytes: int = MEGABYTES
) -> ProgramOutcome:
    """Run a program and then its tests, with an empty environment in an empty folder.

    A word that nobody can guess is printed after the last test, so that a program which ends the
    process early fails.
    """
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(f"{program}\n\n{tests}\n\nprint('\\n{word}')\n")
        command = [sys.executable, "-I", "-S", str(JAIL), str(path), str(seconds), str(megabytes)]
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            out, _ = child.communicate(timeout=seconds + 1)
        except subprocess.TimeoutExpired:
            return ProgramOutcome(False, f"stopped after {seconds} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    lines = out.decode(errors="replace").split()
    if child.returncode == 0 and lines[-1:] == [word]:
        return ProgramOutcome(True, "")
    return ProgramOutcome(
        False,
        " ".join(out.decode(errors="replace").strip().splitlines()[-1:])[:200]
        or f"exit {child.returncode}",
    )


def network_is_cut() -> bool:
    """Whether a program in the jail is kept from this machine's own loopback, tried with a real
    socket.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        return not run_tests(
            f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", ""
        ).passed
