"""A study's connection to its language model: the endpoint, the budgets over all runs of the study,
the replies that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sintra.config.options import PlannerConf
from sintra.core.canonical import sealed, unsealed
from sintra.core.errors import UserError
from sintra.planning.llm.budget import Budget, Spending, TokenPrices
from sintra.planning.llm.client import Endpoint, LlmClient
from sintra.planning.state import JsonObject
from sintra.store.files import read_regular, write_atomic


@dataclass
class Advisor:
    """A study's language model in one run."""

    client: LlmClient  # the endpoint with its budget, prices and kept replies
    folder: Path  # of the study, where llm.json says what all its runs have spent
    live: bool = True  # whether calls may be made; a dry run only reads kept replies
    silent: bool = False  # whether it is asked no more in this run
    spending: list[Spending] = field(default_factory=list)  # of this run, an entry for each reply

    @staticmethod
    def of(
        options: PlannerConf,
        folder: Path,
        replies: Path,
        notify: Callable[[str], None],
        live: bool,
    ) -> Advisor:
        """Read the planner's options. Raises UserError without a usable endpoint.

        folder: of the study; replies: where replies are kept; notify: prints a line for the user.
        """
        url, model = options.base_url, options.model
        if not url or not model:
            raise UserError(
                "planner=llm and planner=hybrid need planner.base_url=http://HOST/v1 and "
                "planner.model=NAME"
            )
        parts = urlsplit(url)
        if parts.username or parts.query or parts.scheme not in ("http", "https"):
            raise UserError(
                "planner.base_url is http(s)://HOST/v1 without a user or a key: the key comes "
                "from OPENAI_API_KEY"
            )
        endpoint = Endpoint(url, model, options.timeout_s, options.max_reply_tokens)
        budget = Budget(options.max_calls, options.max_tokens, options.max_usd)
        prices = TokenPrices.of(options.price_input, options.price_output)
        client = LlmClient(endpoint, budget if live else Budget(0, 0, 0.0), replies, notify, prices)
        return Advisor(client, folder, live)

    def ask(self, system: str, user: str, schema: JsonObject) -> JsonObject | None:
        """Return the model's reply, from the kept ones where it was asked the same before.

        None on trouble, which the user is told once and which ends the asking for this run.
        """
        if self.silent:
            return None
        before = self.study_spending()
        reply = self.client.ask(system, user, schema, before)
        used = reply.spending.minus(before)
        if used.calls:
            self.spending.append(used)
            text = json.dumps(asdict(reply.spending)) + "\n"
            write_atomic(self.folder / "llm.json", sealed(text))
        if reply.data is None:
            self.silent = True
            if self.live:
                self.client.notify(f"without the language model: {reply.trouble}")
        return reply.data

    def stop_asking(self) -> None:
        """Make no more calls in this run."""
        self.silent = True

    def study_spending(self) -> Spending:
        """Return what all runs of the study have spent.

        The whole budget where llm.json can't be read, so that no more is spent.
        """
        try:
            data = unsealed(read_regular(self.folder / "llm.json"))
            return Spending(**(data or {}))
        except FileNotFoundError:
            return Spending(0, 0, 0.0)
        except (TypeError, OSError):
            budget = self.client.budget
            return Spending(budget.max_calls, budget.max_tokens, budget.max_usd or 0.0)
