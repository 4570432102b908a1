"""Test whether a program that a model wrote passes its tests, in a child process (jail.py)."""

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
SECONDS = 10  # of a program with its tests
MEGABYTES = 512  # address space of a program, MiB


@dataclass(frozen=True)
class ProgramOutcome:
    """How a program with its tests ended."""

    passed: bool  # whether both ran to their end
    reason: str  # why not, in a few words; "" where passed


def run_tests(
    program: str, tests: str, seconds: int = SECONDS, megabytes: int = MEGABYTES
) -> ProgramOutcome:
    """Run a program and then its tests, with an empty environment in an empty folder.

    A word that cannot be guessed is printed after the last test, so that a program which ends the
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
    text = out.decode(errors="replace")
    if child.returncode == 0 and text.split()[-1:] == [word]:
        return ProgramOutcome(True, "")
    last_line = " ".join(text.strip().splitlines()[-1:])[:200]
    return ProgramOutcome(False, last_line or f"exit {child.returncode}")


def network_is_cut() -> bool:
    """Return whether a program in the jail cannot reach this machine's loopback.

    It is tried with a real socket.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        return not run_tests(connect, "").passed
