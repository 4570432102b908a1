"""One child process that carries out what others wrote (child.py), and what is said to it.

What it answers is data: read to a limit, until a deadline, and of the notation that was agreed on.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.process import kill_group

ROOT = Path(__file__).resolve().parents[3]  # the folder with the package sintra
START = (
    f"import sys; sys.path.append({str(ROOT)!r}); "
    "from sintra.core.rendering.child import main; main(*sys.argv[1:])"
)
START_S = 120.0  # until a child is ready, by the clock: the machine may be busy
ENDED_S = 5.0  # until an exit code comes, once the pipe is closed
PIECE = 1 << 16  # bytes that are read or written at once
MOST_BYTES = 256 << 20  # of all replies to an order
REPLIES = {"answer", "refused", "unfit", "ready", "done"}
Reply = dict[str, Any]  # {"answer": JSON}, {"refused": why} for a row, {"unfit": why} for all


class Unusable(Exception):
    """A child that must be ended: why, in a few words."""


class OutOfTime(Unusable):
    """A child that hasn't answered before its deadline."""


@dataclass(frozen=True)
class Replies:
    """What came of an order's rows, in the rows' order."""

    rows: list[Reply]
    lost: str = ""
    """Why the child has ended before the last row, in a few words; "" where all are answered."""
    late: bool = False  # whether it has ended for want of time
    killed: bool = False  # whether somebody has killed it: no limit of its own does that


class JailedChild:
    """A process that renders, from its start to its end."""

    def __init__(self, megabytes: int) -> None:
        """Start it; megabytes: of address space, MiB. Raises Unusable."""
        path = json.dumps([p for p in sys.path if p])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, path, str(megabytes)],
            cwd="/",
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        try:
            if next(self._replies(b"", START_S), {}) != {"ready": True}:
                raise Unusable("the process that renders templates doesn't start")
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it, where it hasn't ended, and let go of what it had."""
        if self._process.returncode is None:  # else its number may be somebody else's
            kill_group(self._process)
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def ask(self, order: bytes, rows: int, wall_s: float) -> Replies:
        """Return the replies to an order of so many rows. Where one is missing, it has ended.

        order: a line of JSON; wall_s: its deadline by the clock, seconds.
        """
        read: list[Reply] = []
        try:
            for reply in self._replies(order, wall_s):
                if "done" in reply:
                    return Replies(read)
                if len(read) >= max(1, rows):
                    raise Unusable("its process answers more than it was asked")
                read.append(reply)
        except Unusable as error:
            self.end()
            return Replies(read, str(error), late=isinstance(error, OutOfTime))
        try:
            code = self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self.end()
            return Replies(read, "its process closes its pipe")
        self.end()
        lost = f"its process ended with {code}"
        return Replies(read, lost, code == -signal.SIGPROF, code == -signal.SIGKILL)

    def _replies(self, order: bytes, wall_s: float) -> Iterator[Reply]:
        """Yield what it answers, until its pipe is closed. Raises Unusable."""
        parts: list[bytes] = []
        total = 0
        for piece in self._pieces(order, time.monotonic() + wall_s):
            total += len(piece)
            if total > MOST_BYTES:
                raise Unusable(f"its texts are longer than {MOST_BYTES >> 20} MiB")
            *lines, rest = piece.split(b"\n")
            for line in lines:
                yield read_reply(b"".join([*parts, line]))
                parts.clear()
            parts.append(rest)

    def _pieces(self, order: bytes, end: float) -> Iterator[bytes]:
        """Yield what it writes, while it takes the order. Raises OutOfTime."""
        unsent = memoryview(order)
        poll = select.poll()  # select.select takes no number above 1023
        poll.register(self._stdout, select.POLLIN)
        if unsent:
            poll.register(self._stdin, select.POLLOUT)
        while True:
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
            if unsent and self._stdin.fileno() in ready:
                unsent = unsent[self._send(unsent[:PIECE]) :]
                if not unsent:
                    poll.unregister(self._stdin)  # else its end would be reported without end
            if self._stdout.fileno() in ready:
                piece = os.read(self._stdout.fileno(), PIECE)
                if not piece:
                    return
                yield piece
            elif time.monotonic() >= end:
                raise OutOfTime("it isn't done in time")

    def _send(self, piece: memoryview) -> int:
        """Return how much of a piece is sent; all of it where nobody reads any more."""
        try:
            return os.write(self._stdin.fileno(), piece)
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # it has ended, or will be found silent
            return len(piece)


def read_reply(line: bytes) -> Reply:
    """Return a line as a reply. Raises Unusable for anything else."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or len(reply) != 1 or not REPLIES & set(reply):
        raise Unusable("its process answers in another notation")
    if not all(isinstance(reply.get(key, ""), str) for key in ("refused", "unfit")):
        raise Unusable("its process answers in another notation")
    return reply
