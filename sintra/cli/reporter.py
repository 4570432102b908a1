"""doit's reporter: failures as plain lines on stderr; results alone go to stdout."""

from __future__ import annotations

import sys
import threading
from typing import Any

from doit.reporter import ConsoleReporter

from sintra.build.run_state import current
from sintra.core.text import printable_text


class Reporter(ConsoleReporter):  # type: ignore[misc]
    """Silent about what is up to date; a failure is one line.

    doit makes it from the class, so it takes the run from `run_state.current`.
    """

    desc = "sintra: one line for each step that was built, one for what went wrong"
    _lock = threading.Lock()  # so that lines of several threads don't mix

    def execute_task(self, task: Any) -> None:
        """Print nothing: steps say themselves when they are done."""

    def skip_uptodate(self, task: Any) -> None:
        """Print nothing: a run with nothing to do is silent."""

    def add_failure(self, task: Any, fail: Any) -> None:
        """Print one line, without a traceback unless the error is an internal one."""
        self.failures.append({"task": task, "exception": fail})
        if not fail.report or type(fail).__name__ == "UnmetDependency":
            return
        with self._lock:
            text = fail.message if str(fail.message).startswith("sintra: ") else fail.get_msg()
            words = current.console.readable(printable_text(str(text).strip()))
            current.failures.append(words)
            print(current.failures[-1], file=sys.stderr, flush=True)

    def complete_run(self) -> None:
        """Print doit's own errors, then do what was put off to the end of the run."""
        for text in self.runtime_errors:
            print(text, file=sys.stderr)
        for close in current.at_end:
            close()
