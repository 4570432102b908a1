"""The state of this run: one `doit` process, what it has counted, what failed, what it says.

`current` is the run of this process. The command line hands it down. Only doit's reporter, which
doit makes itself, and code that no command line hands it to (planners' state, a page, a test) take
it from here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from sintra.build.console import Console

if TYPE_CHECKING:  # not on the no-op path
    from sintra.config.policy import RunPolicy
    from sintra.planning.llm.budget import Spending


class LanguageModelBill(TypedDict):
    """What a run has asked of a language model, as result.json has it."""

    calls: int  # requests that were sent
    tokens: int  # of prompts and replies
    usd: float  # US dollars


@dataclass(eq=False)
class Run:
    """Everything that lasts as long as one run and no longer."""

    started: float = field(default_factory=time.monotonic)  # on the clock of time.monotonic(), s
    console: Console = field(default_factory=Console)  # where its lines of progress go
    counts: dict[str, int] = field(
        default_factory=lambda: {"built": 0, "cached": 0, "failed": 0}
    )  # steps by what came of them; "pulled" only where a shared store is used
    failures: list[str] = field(default_factory=list)  # a text for each failed task, in order
    at_end: list[Callable[[], None]] = field(
        default_factory=list
    )  # called when every task has been tried, also after failures
    swept: set[Path] = field(default_factory=set)  # caches cleared of what killed runs left
    spending: list[Spending] = field(default_factory=list)  # of language models, for each reply
    lock: threading.Lock = field(default_factory=threading.Lock)  # of the counts

    def count(self, outcome: str) -> None:
        """Count one more step as built, cached, pulled or failed."""
        with self.lock:
            self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def say(self, text: str, event: str = "line", **fields: object) -> None:
        """Print a line of progress."""
        self.console.say(text, event, **fields)

    @property
    def seconds(self) -> float:
        """How long the run has lasted, s."""
        return time.monotonic() - self.started

    def deadline(self, policy: RunPolicy) -> float:
        """Return when the run's time is up, on the clock of time.monotonic(), s."""
        return self.started + policy.study_s

    def is_over(self, policy: RunPolicy) -> bool:
        """Return whether the run's time is up."""
        return time.monotonic() >= self.deadline(policy)

    def language_model_bill(self) -> LanguageModelBill:
        """Return what the language models of this run's studies were asked."""
        return {
            "calls": sum(reply.calls for reply in self.spending),
            "tokens": sum(reply.tokens for reply in self.spending),
            "usd": round(sum(reply.usd for reply in self.spending), 6),
        }


current = Run()


def say(text: str, event: str = "line", **fields: object) -> None:
    """Print a line of progress of this process's run."""
    current.say(text, event, **fields)
