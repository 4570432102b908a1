"""Sends what sintra.telemetry makes of a study's end, where the user has turned that on; what can't
be sent waits.
"""

from __future__ import annotations

from typing import Any

from sintra import telemetry
from sintra.errors import UserError
from sintra.events import ENDS, Event, Listener, Setting

TIMEOUT_S = 5.0


class Counts:
    """The listener."""

    def __init__(self, setting: Setting) -> None:
        self.url = telemetry.endpoint()

    def hear(self, event: Event) -> None:
        """At the end of a study: send it with what has been waiting; on any trouble, all of it
        waits.
        """
        if event.kind not in ENDS or not telemetry.chosen():
            return
        import httpx

        with telemetry.waiting() as every:
            every.append(telemetry.payload(event.kind, event.data))
            headers = {"Content-Type": "application/json", "User-Agent": "sintra"}
            try:
                answer = httpx.post(
                    self.url, content=telemetry.body(every), headers=headers, timeout=TIMEOUT_S
                )
            except (httpx.HTTPError, httpx.InvalidURL):
                return
            if answer.status_code < 500:  # refused is as good as taken: nothing is sent twice
                every.clear()

    def close(self) -> None:
        """Nothing is open."""


def check(options: dict[str, Any]) -> None:
    """It can't be asked for in a study's options."""
    raise UserError(
        "listeners has 'telemetry': that is turned on by `doit telemetry --on`, and by nothing else"
    )


LISTENER = Listener("telemetry", Counts, check)
