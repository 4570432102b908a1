"""What calls may cost: checked before each one with the worst that it can cost. Prices per model,
offline.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

PRIVATE = (".localhost", ".local", ".internal")
MILLION = 1_000_000
FRAME = 64  # tokens that a chat template puts around the messages, at most


@dataclass(frozen=True)
class Limits:
    """What may be spent in all. max_usd None: no limit on money; 0 in any of them: no call."""

    max_calls: int
    max_tokens: int
    max_usd: float | None


@dataclass(frozen=True)
class Spent:
    """What was spent: requests that reached the server, tokens in both directions, US dollars."""

    calls: int
    tokens: int
    usd: float

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)


def refusal(
    limits: Limits,
    spent: Spent,
    prompt_tokens_estimate: int,
    max_reply_tokens: int,
    model: str,
    prices_override: Mapping[str, float] | None,
    base_url: str = "",
) -> str | None:
    """Why this call may not be made, in one line, or None; the reply is taken to be as long as it
    may be.
    """
    tokens = prompt_tokens_estimate + max_reply_tokens
    if limits.max_calls <= spent.calls:
        return f"planner.max_calls is {limits.max_calls}, {spent.calls} were made"
    if limits.max_tokens < spent.tokens + tokens:
        return (
            f"planner.max_tokens is {limits.max_tokens}: {spent.tokens} are spent, the next call "
            f"may take {tokens}"
        )
    if limits.max_usd is None:
        return None
    if limits.max_usd <= 0:
        return f"planner.max_usd is {limits.max_usd:g}: no call is made"
    usd = price(model, prompt_tokens_estimate, max_reply_tokens, prices_override, base_url)
    if usd is None:
        return (
            f"the price of {model} is unknown: set planner.price_input and planner.price_output "
            "(USD per million tokens)"
        )
    if not spent.usd + usd <= limits.max_usd:  # so that not-a-number refuses too
        return (
            f"planner.max_usd is {limits.max_usd:g}: {spent.usd:.6f} are spent, the next call may "
            f"cost {usd:.6f}"
        )
    return None


def price(
    model: str,
    input_tokens: int,
    output_tokens: int,
    override: Mapping[str, float] | None,
    base_url: str = "",
) -> float | None:
    """US dollars, by the user's prices per million tokens or the price table; a model that is in no
    table costs nothing on a private host; None: unknown.
    """
    if override is not None:
        return (input_tokens * override["input"] + output_tokens * override["output"]) / MILLION
    known = listed(model, input_tokens, output_tokens, base_url)
    return 0.0 if known is None and private(base_url) else known


def listed(model: str, input_tokens: int, output_tokens: int, base_url: str) -> float | None:
    """By genai-prices, whose data come with the package: the provider at this address first, else
    whose model it is.
    """
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    for address in (bare(base_url), None):
        try:
            return float(calc_price(usage, model, provider_api_url=address).total_price)
        except LookupError:
            continue
    return None


def private(base_url: str) -> bool:
    """Whether the host is this machine or one on a private network, by its address or name alone
    (nothing is resolved).
    """
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host.split("%")[0])
        return address.is_loopback or address.is_private
    except ValueError:  # a name; one without a dot is only known inside a network
        return bool(host) and ("." not in host or host.endswith(PRIVATE))


def bare(url: str) -> str:
    """The address without user, password, query and fragment: what may be shown and stored."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no address)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def most_tokens(texts: Iterable[str]) -> int:
    """The most tokens that a prompt can have: a token stands for a byte at least."""
    return sum(len(text.encode(errors="replace")) for text in texts) + FRAME


def about_tokens(*texts: str) -> int:
    """How many tokens texts have, about, where the server doesn't say."""
    return sum(len(text) for text in texts) // 4 + 1
