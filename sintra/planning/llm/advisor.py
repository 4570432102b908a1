"""A study's line to its language model: the endpoint, the budgets over all runs of the study, the
replies that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra.core.canonical import sealed, unsealed
from sintra.core.errors import UserError
from sintra.planning.llm.budget import Limits, Spent
from sintra.planning.llm.client import Endpoint, ask
from sintra.store.files import write_atomic


@dataclass
class Advisor:
    """folder: of the study; replies: where answers are kept; live: whether calls may be made (a dry
    run only reads).
    """

    folder: Path
    replies: Path
    endpoint: Endpoint
    limits: Limits
    prices: dict[str, float] | None
    say: Callable[[str], None]
    live: bool = True
    silent: bool = field(default=False)
    spending: list[Spent] = field(default_factory=list)  # of this run, an entry for each reply

    @staticmethod
    def of(
        options: dict[str, Any], folder: Path, replies: Path, say: Callable[[str], None], live: bool
    ) -> Advisor:
        """From the planner's options. Raises UserError."""
        url, model = options["base_url"], options["model"]
        if not url or not model:
            raise UserError(
                "planner=llm and planner=hybrid need planner.base_url=http://HOST/v1 and "
                "planner.model=NAME"
            )
        if (
            urlsplit(url).username
            or urlsplit(url).query
            or urlsplit(url).scheme not in ("http", "https")
        ):
            raise UserError(
                "planner.base_url is http(s)://HOST/v1 without a user or a key: the key comes "
                "from OPENAI_API_KEY"
            )
        given = (options["price_input"], options["price_output"])
        prices = None if None in given else {"input": given[0], "output": given[1]}
        endpoint = Endpoint(url, model, options["timeout_s"], options["max_reply_tokens"])
        limits = Limits(options["max_calls"], options["max_tokens"], options["max_usd"])
        return Advisor(
            folder, replies, endpoint, limits if live else Limits(0, 0, 0.0), prices, say, live
        )

    def ask(self, system: str, user: str, schema: dict[str, Any]) -> dict[str, Any] | None:
        """The model's answer, from what is kept where it was asked the same before; None on
        trouble, which is said once and ends the asking for this run.
        """
        if self.silent:
            return None
        before = self.spent()
        reply = ask(
            self.endpoint,
            system,
            user,
            schema,
            self.limits,
            before,
            self.replies,
            self.say,
            self.prices,
        )
        used = Spent(
            reply.spent.calls - before.calls,
            reply.spent.tokens - before.tokens,
            reply.spent.usd - before.usd,
        )
        if used.calls:
            self.spending.append(used)
            write_atomic(self.folder / "llm.json", sealed(json.dumps(asdict(reply.spent)) + "\n"))
        if reply.data is None:
            self.silent = True
            if self.live:
                self.say(f"without the language model: {reply.trouble}")
        return reply.data

    def hush(self) -> None:
        """Ask no more in this run."""
        self.silent = True

    def spent(self) -> Spent:
        """By all runs of the study."""
        try:
            data = unsealed((self.folder / "llm.json").read_bytes())
            return Spent(**(data or {}))
        except FileNotFoundError:
            return Spent(0, 0, 0.0)
        except (TypeError, OSError):  # who knows what was spent: nothing more is
            return Spent(self.limits.max_calls, self.limits.max_tokens, self.limits.max_usd or 0.0)
