"""Test whether a program that a model wrote passes its tests.

Two child processes without any right (sintra.core.jail) are started: one runs the program, the
other its tests, which reach the program's functions over a pipe. The verdict is written by the
process with the tests, to a pipe that the program does not have.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sintra.core.errors import UserError
from sintra.core.jail.confine import missing_parts
from sintra.core.process import kill_group
from sintra.core.text import printable_line

ROOT = Path(__file__).resolve().parents[3]  # the folder with the package sintra
START = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "from sintra.probes.evaluation.program.child import main; "
    f"sys.path.remove({str(ROOT)!r}); main(*sys.argv[1:])"
)
SECONDS = 10  # of a program with its tests
MEGABYTES = 512  # address space of each process, MiB
STARTUP = 5  # seconds for Python to start, besides
LONGEST_VERDICT = 4096  # bytes


@dataclass(frozen=True)
class ProgramOutcome:
    """How a program with its tests ended."""

    passed: bool  # whether both ran to their end
    reason: str  # why not, in a few printable words; "" where passed


class Refused(UserError):
    """This machine cannot run a program without rights."""


def run_tests(
    program: str, tests: str, seconds: int = SECONDS, megabytes: int = MEGABYTES
) -> ProgramOutcome:
    """Run a program and then its tests, with an empty environment and without any right.

    Every process has ended afterwards. Raises Refused where this machine cannot take the rights
    away; then nothing of the program was run.
    """
    ours, verdict = os.pipe()
    ends = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ours)
        files = (verdict, *(end.fileno() for end in ends))
        common = (str(seconds), str(megabytes))
        try:
            stack.enter_context(child(tests, ("tests", *common), (files[1], verdict)))
            stack.enter_context(child(program, ("program", *common), (files[2],)))
        finally:
            os.close(verdict)
            for end in ends:
                end.close()
        answer = read_verdict(ours, seconds + STARTUP)
    return outcome_of(answer, seconds)


@contextlib.contextmanager
def child(source: str, words: tuple[str, ...], files: tuple[int, ...]) -> Iterator[None]:
    """Run one of the two children; it is killed at the end."""
    with tempfile.TemporaryFile() as file:
        file.write(source.encode(errors="replace"))
        file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, *words, *map(str, files)],
            cwd="/",
            env={},
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=files,
        )
    try:
        yield
    finally:
        kill_group(process)


def read_verdict(file: int, seconds: float) -> bytes | None:
    """Return what is written to a pipe, to a limit; None where nothing comes in time."""
    end, text = time.monotonic() + seconds, b""
    pipe = select.poll()  # select.select takes no number above 1023
    pipe.register(file, select.POLLIN)
    while len(text) < LONGEST_VERDICT:
        if not pipe.poll(max(0.0, end - time.monotonic()) * 1000):
            return None
        part = os.read(file, LONGEST_VERDICT)
        if not part:
            break
        text += part
    return text


def outcome_of(answer: bytes | None, seconds: int) -> ProgramOutcome:
    """Return what a verdict says. Raises Refused."""
    if answer is None:
        return ProgramOutcome(False, f"stopped after {seconds} s")
    try:
        verdict = json.loads(answer)
    except ValueError:
        return ProgramOutcome(False, "the tests ended early: out of time or memory")
    if "refused" in verdict:
        raise Refused(f"no code of a model's can be run here: {verdict['refused']}")
    return ProgramOutcome("passed" in verdict, printable_line(str(verdict.get("failed", ""))))


@functools.cache
def check_jail() -> None:
    """Raise Refused where this machine cannot run a program without rights.

    It is tried, with an empty program.
    """
    if missing := missing_parts():
        raise Refused(f"no code of a model's can be run here: {missing}")
    outcome = run_tests("", "")
    if not outcome.passed:
        raise Refused(f"no code of a model's can be run here: {outcome.reason}")
