"""What calls may cost: checked before each one with the worst that it can cost. Prices per model,
offline.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")
MILLION = 1_000_000
FRAME_TOKENS = 64  # that a chat template puts around the messages, at most
CHARACTERS_PER_TOKEN = 4  # about


@dataclass(frozen=True)
class Budget:
    """What all calls of a study may cost; 0 in any of them: no call."""

    max_calls: int
    max_tokens: int  # in both directions
    max_usd: float | None  # None: no limit on money


@dataclass(frozen=True)
class Spending:
    """What calls have cost."""

    calls: int  # requests that reached the server
    tokens: int  # in both directions
    usd: float

    def plus(self, other: Spending) -> Spending:
        """Return both together."""
        return Spending(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def minus(self, other: Spending) -> Spending:
        """Return what was spent beyond an earlier spending."""
        return Spending(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)


@dataclass(frozen=True)
class TokenPrices:
    """The user's prices, in US dollars per million tokens."""

    input: float
    output: float

    @staticmethod
    def of(input_price: float | None, output_price: float | None) -> TokenPrices | None:
        """Return the prices, or None unless both are set."""
        if input_price is None or output_price is None:
            return None
        return TokenPrices(input_price, output_price)


@dataclass(frozen=True)
class Tariff:
    """What the tokens of a model cost."""

    model: str
    prices: TokenPrices | None = None  # instead of the price table
    base_url: str = ""  # of the endpoint

    def usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return US dollars, by the user's prices or the price table; None: unknown.

        A model that is in no table costs nothing on a private host.
        """
        if self.prices is not None:
            total = input_tokens * self.prices.input + output_tokens * self.prices.output
            return total / MILLION
        listed = self.listed_usd(input_tokens, output_tokens)
        return 0.0 if listed is None and is_private(self.base_url) else listed

    def listed_usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return US dollars by genai-prices, whose data come with the package; None: not listed.

        The provider at this address first, else whose model it is.
        """
        from genai_prices import Usage, calc_price  # not on the no-op path

        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        for address in (bare_url(self.base_url), None):
            try:
                return float(calc_price(usage, self.model, provider_api_url=address).total_price)
            except LookupError:
                continue
        return None


def refusal_reason(
    budget: Budget, spending: Spending, prompt_tokens: int, reply_tokens: int, tariff: Tariff
) -> str | None:
    """Say in one line why a call may not be made, or return None where it may.

    prompt_tokens, reply_tokens: the most that the call can take.
    """
    tokens = prompt_tokens + reply_tokens
    if budget.max_calls <= spending.calls:
        return f"planner.max_calls is {budget.max_calls}, {spending.calls} were made"
    if budget.max_tokens < spending.tokens + tokens:
        return (
            f"planner.max_tokens is {budget.max_tokens}: {spending.tokens} are spent, the next "
            f"call may take {tokens}"
        )
    if budget.max_usd is None:
        return None
    if budget.max_usd <= 0:
        return f"planner.max_usd is {budget.max_usd:g}: no call is made"
    usd = tariff.usd(prompt_tokens, reply_tokens)
    if usd is None:
        return (
            f"the price of {tariff.model} is unknown: set planner.price_input and "
            "planner.price_output (USD per million tokens)"
        )
    if not spending.usd + usd <= budget.max_usd:  # so that not-a-number refuses too
        return (
            f"planner.max_usd is {budget.max_usd:g}: {spending.usd:.6f} are spent, the next call "
            f"may cost {usd:.6f}"
        )
    return None


def is_private(base_url: str) -> bool:
    """Say whether the host is this machine or one on a private network.

    By its address or name alone: nothing is resolved.
    """
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host.split("%")[0])
        return address.is_loopback or address.is_private
    except ValueError:  # a name; one without a dot is only known inside a network
        return bool(host) and ("." not in host or host.endswith(PRIVATE_SUFFIXES))


def bare_url(url: str) -> str:
    """Return what may be shown of an address: no user, password, query or fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no address)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def most_tokens(texts: Iterable[str]) -> int:
    """Return the most tokens that a prompt can have: a token stands for a byte at least."""
    return sum(len(text.encode(errors="replace")) for text in texts) + FRAME_TOKENS


def about_tokens(*texts: str) -> int:
    """Return about how many tokens texts have, where the server doesn't say."""
    return sum(len(text) for text in texts) // CHARACTERS_PER_TOKEN + 1
