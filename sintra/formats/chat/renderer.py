"""Have chat templates rendered by a child process that may be killed (render_child.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from sintra.formats.chat.render_child import CPU_S, RenderOrder

START_S = 300.0  # wall time until the child is ready, seconds: transformers is imported
WALL_S = 60.0  # wall time of a conversation, seconds; the child's own limit is processor time
PIECE = 1 << 16  # bytes that are read at once
# The child's environment: what Python and its libraries need, no keys.
PASSED_ON = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
Message = dict[str, str]  # {"role", "content"}


class TemplateFailed(ValueError):
    """A template that doesn't render a conversation: why, in one line."""


class TooSlow(TemplateFailed):
    """A template that doesn't end."""


class TemplateRenderer:
    """A child process that renders; started with the first conversation, and again after a kill.

    Several threads may use it.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, order: RenderOrder) -> str:
        """Return a conversation as transformers renders it. Raises TemplateFailed."""
        with self._lock:
            child = self._started()
            assert child.stdin is not None
            try:
                child.stdin.write(json.dumps(order).encode() + b"\n")
                child.stdin.flush()
                reply = _read_reply(child, WALL_S)
            except BrokenPipeError:
                reply = None
            if reply is None:
                raise self._ended()
        if "error" in reply:
            raise TemplateFailed(reply["error"])
        return str(reply["text"])

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the child, ready. Raises TemplateFailed where it can't be started."""
        if self._child is not None:
            return self._child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "sintra.formats.chat.render_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k in PASSED_ON} | OFFLINE,
        )
        if _read_reply(self._child, START_S) is None:
            self.close()
            raise TemplateFailed("the process that renders chat templates doesn't start")
        return self._child

    def _ended(self) -> TemplateFailed:
        """End the child that gave no reply, and return why."""
        assert self._child is not None
        code = self._child.poll()
        self.close()
        if code in (None, -signal.SIGPROF):
            return TooSlow(f"it takes more than {CPU_S:g} s for a few words")
        return TemplateFailed(f"its process ended with {code}")


def _read_reply(child: subprocess.Popen[bytes], limit_s: float) -> dict[str, Any] | None:
    """Return the child's next line; None where it ends or `limit_s` seconds pass."""
    assert child.stdout is not None
    handle, data = child.stdout.fileno(), b""
    end = time.monotonic() + limit_s
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(handle, PIECE) if ready else b""
        if not piece:
            if ready:  # the pipe is closed: the exit code comes at once
                child.wait()
            return None
        data += piece
    reply: dict[str, Any] = json.loads(data)
    return reply


SHARED = TemplateRenderer()
"""The renderer of this process: its child ends with it, since its stdin does."""
