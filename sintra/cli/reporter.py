"""doit's events as plain lines on stderr; results alone go to stdout."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from doit.reporter import ConsoleReporter

from sintra.build.console import FAILURES

AT_END: list[Callable[[], None]] = []  # called when everything has been tried, also after failures


class Reporter(ConsoleReporter):  # type: ignore[misc]
    """Silent about what is up to date; a failure is one line."""

    desc = "sintra: one line for each step that was built, one for what went wrong"
    _lock = threading.Lock()

    def execute_task(self, task: Any) -> None:
        """Steps say themselves when they are done."""

    def skip_uptodate(self, task: Any) -> None:
        """Nothing: a no-op is silent."""

    def add_failure(self, task: Any, fail: Any) -> None:
        """One line, without a traceback unless it is our own fault."""
        self.failures.append({"task": task, "exception": fail})
        if not fail.report or type(fail).__name__ == "UnmetDependency":
            return
        with self._lock:
            text = fail.message if str(fail.message).startswith("sintra: ") else fail.get_msg()
            FAILURES.append(str(text).strip())
            print(FAILURES[-1], file=sys.stderr, flush=True)

    def complete_run(self) -> None:
        """Errors of doit itself."""
        for text in self.runtime_errors:
            print(text, file=sys.stderr)
        for close in AT_END:
            close()
