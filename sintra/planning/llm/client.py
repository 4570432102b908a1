"""One question to an OpenAI-compatible server, within a budget. Whatever goes wrong is one line,
never an exception.

The key is read from the environment at the moment of the call and given to the client alone; every
line that leaves this module has it, and what an address may hide, taken out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra.core.canonical import canonical
from sintra.planning.llm.budget import Limits, Spent, bare, most_tokens, price, refusal
from sintra.planning.llm.replies import LARGEST, correction, digest, keep, read, recall
from sintra.planning.llm.wire import Form, Got, asked_as, next_form, send, used

NO_KEY = "none"  # for servers that need none: the client insists on one
SECRET = 8  # what is shorter is no secret, and could be any word of a reply
PATIENCE_S, PAUSE_S = 30.0, 1.0
RETRIES = {"busy": 2, "failed": 1}
LINE = 300
KNOWN: dict[
    str, Form
] = {}  # the form that each address was found to take, for as long as this process lives
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, for how long and for how much. It holds no key."""

    base_url: str
    model: str
    timeout_s: float
    max_reply_tokens: int

    def __repr__(self) -> str:
        return (
            f"Endpoint({bare(self.base_url)}, {self.model}, {self.timeout_s:g} s, "
            f"{self.max_reply_tokens} tokens)"
        )


@dataclass(frozen=True)
class Reply:
    """What came of a question. data: holds the schema, None on trouble; spent: what was spent
    before and by this question.
    """

    data: dict[str, Any] | None
    spent: Spent
    cached: bool
    trouble: str


class Trouble(Exception):
    """Why there is no answer, in one line."""


def ask(
    endpoint: Endpoint,
    system: str,
    user: str,
    schema: dict[str, Any],
    limits: Limits,
    spent: Spent,
    replies: Path,
    say: Callable[[str], None],
    prices: Mapping[str, float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Reply:
    """The model's answer, from the folder of replies where the same was asked before. Never raises.

    spent: before this question, all counted against the limits; prices: US dollars per million
    tokens, input and output.
    """
    talk = Talk(
        endpoint, schema, limits, spent, prices, lambda text: say(shown(text, endpoint)), sleep
    )
    try:
        key = digest(endpoint.base_url, endpoint.model, system, user, schema)
        kept = recall(replies, key, schema)
        if kept is not None:
            return Reply(kept, spent, True, "")
        data = talk.answer(
            [{"role": "system", "content": system}, {"role": "user", "content": user}]
        )
    except (Trouble, ImportError) as error:
        return Reply(None, talk.spent, False, shown(str(error), endpoint))
    except (
        Exception
    ) as error:  # whatever it is, the study goes on without the model; its text may quote a header
        return Reply(None, talk.spent, False, f"unexpected {type(error).__name__}")
    if not keep(replies, key, data):
        talk.say("the language model's reply could not be kept: a rerun will ask again")
    return Reply(data, talk.spent, False, "")


@dataclass
class Talk:
    """One question on its way, and what was spent so far."""

    endpoint: Endpoint
    schema: dict[str, Any]
    limits: Limits
    spent: Spent
    prices: Mapping[str, float] | None
    say: Callable[[str], None]
    sleep: Callable[[float], None]

    def answer(self, messages: Messages) -> dict[str, Any]:
        """A valid reply; the model is told once what is wrong with an invalid one. Raises Trouble."""
        text, data, wrong = self.reply(messages)
        if data is None:
            self.say(f"the language model's reply was refused ({wrong}): asked once more")
            _, data, wrong = self.reply([*messages, *correction(text, wrong, self.schema)])
        if data is None:
            raise Trouble(f"the reply was refused twice: {wrong}")
        key = secret()
        if len(key) >= SECRET and key in canonical(data):
            raise Trouble("the reply has the key in it")
        return data

    def reply(self, messages: Messages) -> tuple[str, dict[str, Any] | None, str]:
        """What was said, as text and as data, and what is wrong with it. Raises Trouble."""
        text, finish = said(self.completion(messages))
        data, wrong = read(text, self.schema)
        if data is None and finish == "length" and len(text) <= LARGEST:
            wrong = f"cut off at planner.max_reply_tokens={self.endpoint.max_reply_tokens}"
        return text, data, wrong

    def completion(self, messages: Messages) -> dict[str, Any]:
        """The server's answer, in whichever form it takes, after the retries that there are. Raises
        Trouble.
        """
        url, left = bare(self.endpoint.base_url), dict(RETRIES)
        form = KNOWN.get(url, Form())
        while True:
            got = self.request(messages, form)
            if got.status == 200:
                KNOWN[url] = form
                return got.body
            other = next_form(form, got, self.schema, KNOWN.get(url) == form)
            if other is None:
                self.pause(got, left)
            else:
                self.say(
                    f"{url} doesn't take {form.kind} with {form.limit}: asked for {other.kind} "
                    f"with {other.limit}"
                )
                form = other

    def pause(self, got: Got, left: dict[str, int]) -> None:
        """Wait before the next try, as long as the server asks; raises Trouble where there is none."""
        kind = "busy" if got.status == 429 else "failed" if got.passing else ""
        wait = PAUSE_S if got.wait_s is None else got.wait_s
        trouble = f"{bare(self.endpoint.base_url)}: {got.trouble}"
        if wait > PATIENCE_S and left.get(kind):
            raise Trouble(f"{trouble} (it asks to wait {wait:.0f} s)")
        if not left.get(kind):
            raise Trouble(trouble)
        left[kind] -= 1
        self.say(f"{trouble[:LINE]}; again in {wait:g} s")
        self.sleep(wait)

    def request(self, messages: Messages, form: Form) -> Got:
        """One request, if the budget allows the worst of it. Raises Trouble."""
        e, most = (
            self.endpoint,
            most_tokens([*(m["content"] for m in messages), canonical(self.schema)]),
        )
        no = refusal(
            self.limits, self.spent, most, e.max_reply_tokens, e.model, self.prices, e.base_url
        )
        if no is not None:
            raise Trouble(no)
        with connected(e) as client:
            got = send(
                client,
                asked_as(form, e.model, messages, self.schema, e.max_reply_tokens),
                e.timeout_s,
            )
        if got.sent:
            self.count(*used(got, messages, most, e.max_reply_tokens))
        return got

    def count(self, into: int, out: int) -> None:
        """Add one call to what was spent; what has no price, and no limit on money, counts as
        nothing.
        """
        usd = price(self.endpoint.model, into, out, self.prices, self.endpoint.base_url)
        self.spent = self.spent.plus(Spent(1, into + out, usd or 0.0))


def connected(endpoint: Endpoint) -> Any:
    """A client for one request; the key goes here and nowhere else."""
    from openai import OpenAI

    return OpenAI(
        base_url=endpoint.base_url,
        api_key=secret() or NO_KEY,
        max_retries=0,
        timeout=endpoint.timeout_s,
    )


def said(body: dict[str, Any]) -> tuple[str, str]:
    """The text of the first choice and why it ended. Raises Trouble."""
    try:
        choice = body["choices"][0]
        text = choice["message"].get("content")
        return text if isinstance(text, str) else "", str(choice.get("finish_reason"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Trouble(
            f"the answer has no choices: {str(body.get('error') or '')[:LINE]}".rstrip(": ")
        ) from None


def secret() -> str:
    """The key, from the environment; "" where there is none."""
    return (os.environ.get("SINTRA_LLM_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()


def inside(url: str) -> tuple[str | None, ...]:
    """What an address may hide."""
    try:
        return urlsplit(url).password, urlsplit(url).query
    except ValueError:
        return ()


def shown(text: str, endpoint: Endpoint) -> str:
    """One printable line without the key, and without what an address may hide."""
    for hidden in (secret(), *inside(endpoint.base_url)):
        text = text.replace(hidden, "***") if hidden else text
    text = re.sub(r"//\S*@", "//", text)
    text = re.sub(r"(https?://[^\s?#]*)[?#]\S*", r"\1", text)
    text = re.sub(r"(?i)\bbearer\s+\S+|\bsk-[\w*-]+", "***", text)
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:LINE]
