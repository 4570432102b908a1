"""One question to an OpenAI-compatible server, within a budget. Whatever goes wrong is one line,
never an exception.

The key is read from the environment at the moment of the call and given to the client alone; every
line that leaves this module has it, and what an address may hide, taken out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra.core.canonical import canonical
from sintra.core.text import printable_line
from sintra.planning.llm.budget import (
    Budget,
    Spending,
    Tariff,
    TokenPrices,
    bare_url,
    most_tokens,
    refusal_reason,
)
from sintra.planning.llm.replies import (
    MAX_BYTES,
    Message,
    correction_messages,
    load_reply,
    read_reply,
    reply_key,
    store_reply,
)
from sintra.planning.llm.wire import (
    RequestForm,
    ServerAnswer,
    next_form,
    request_arguments,
    send_request,
    tokens_used,
)
from sintra.planning.state import JsonObject

NO_KEY = "none"  # for servers that need none: OpenAI's client insists on one
MIN_KEY = 8  # characters: what is shorter is no secret, and could be any word of a reply
MAX_WAIT_S, PAUSE_S = 30.0, 1.0  # the longest pause before another try, and the usual one
RETRIES = {"busy": 2, "failed": 1}
MAX_LINE = 300  # characters of a line for the user
# The form that each address was found to take, for as long as this process lives.
FORMS: dict[str, RequestForm] = {}


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, for how long and for how much. It holds no key."""

    base_url: str
    model: str
    timeout_s: float
    max_reply_tokens: int

    def __repr__(self) -> str:
        return (
            f"Endpoint({bare_url(self.base_url)}, {self.model}, {self.timeout_s:g} s, "
            f"{self.max_reply_tokens} tokens)"
        )


@dataclass(frozen=True)
class Reply:
    """What came of a question."""

    data: JsonObject | None  # holds the schema; None on trouble
    spending: Spending  # before and by this question
    cached: bool  # whether it was kept from an earlier question
    trouble: str  # why there is no data, in one line


class AskError(Exception):
    """Why there is no reply, in one line."""


@dataclass(frozen=True)
class LlmClient:
    """An endpoint with what may be spent on it and where its replies are kept."""

    endpoint: Endpoint
    budget: Budget  # of all calls together
    replies: Path  # folder of the kept replies
    notify: Callable[[str], None]  # prints a line for the user
    prices: TokenPrices | None = None  # instead of the price table
    sleep: Callable[[float], None] = time.sleep  # seconds

    @property
    def tariff(self) -> Tariff:
        """Return what the endpoint's tokens cost."""
        return Tariff(self.endpoint.model, self.prices, self.endpoint.base_url)

    def ask(self, system: str, user: str, schema: JsonObject, spending: Spending) -> Reply:
        """Return the model's reply, from the kept ones where the same was asked before.

        spending: before this question, all counted against the budget. Never raises.
        """
        endpoint, question = self.endpoint, Question(self, schema, spending)
        try:
            key = reply_key(endpoint.base_url, endpoint.model, system, user, schema)
            cached = load_reply(self.replies, key, schema)
            if cached is not None:
                return Reply(cached, spending, True, "")
            data = question.answer(
                [{"role": "system", "content": system}, {"role": "user", "content": user}]
            )
        except (AskError, ImportError) as error:
            return Reply(None, question.spending, False, redact(str(error), endpoint))
        except Exception as error:
            # Whatever it is, the study goes on without the model. Its text may quote a header.
            trouble = f"unexpected {type(error).__name__}"
            return Reply(None, question.spending, False, trouble)
        if not store_reply(self.replies, key, data):
            question.notify("the language model's reply could not be kept: a rerun will ask again")
        return Reply(data, question.spending, False, "")


@dataclass
class Question:
    """One question on its way."""

    client: LlmClient
    schema: JsonObject  # of the reply
    spending: Spending  # so far

    def notify(self, line: str) -> None:
        """Print a line for the user, without secrets."""
        self.client.notify(redact(line, self.client.endpoint))

    def answer(self, messages: Sequence[Message]) -> JsonObject:
        """Return a valid reply; the model gets one chance to correct an invalid one.

        Raises AskError.
        """
        text, data, reason = self.reply(messages)
        if data is None:
            self.notify(f"the language model's reply was refused ({reason}): asked once more")
            correction = correction_messages(text, reason, self.schema)
            _, data, reason = self.reply([*messages, *correction])
        if data is None:
            raise AskError(f"the reply was refused twice: {reason}")
        key = api_key()
        if len(key) >= MIN_KEY and key in canonical(data):
            raise AskError("the reply has the key in it")
        return data

    def reply(self, messages: Sequence[Message]) -> tuple[str, JsonObject | None, str]:
        """Return the reply as text and as data, and what is wrong with it. Raises AskError."""
        text, finish_reason = first_choice(self.completion(messages))
        data, reason = read_reply(text, self.schema)
        if data is None and finish_reason == "length" and len(text) <= MAX_BYTES:
            limit = self.client.endpoint.max_reply_tokens
            reason = f"cut off at planner.max_reply_tokens={limit}"
        return text, data, reason

    def completion(self, messages: Sequence[Message]) -> JsonObject:
        """Return the server's answer, in whichever form it takes, after the retries that there are.

        Raises AskError.
        """
        url, retries = bare_url(self.client.endpoint.base_url), dict(RETRIES)
        form = FORMS.get(url, RequestForm())
        while True:
            answer = self.request(messages, form)
            if answer.status == 200:
                FORMS[url] = form
                return answer.body
            other = next_form(form, answer, self.schema, FORMS.get(url) == form)
            if other is None:
                self.pause(answer, retries)
            else:
                self.notify(
                    f"{url} doesn't take {form.kind} with {form.limit}: asked for {other.kind} "
                    f"with {other.limit}"
                )
                form = other

    def pause(self, answer: ServerAnswer, retries: dict[str, int]) -> None:
        """Wait before the next try, as long as the server asks, and count the try.

        Raises AskError where no try is left.
        """
        kind = "busy" if answer.status == 429 else "failed" if answer.retry else ""
        wait_s = PAUSE_S if answer.wait_s is None else answer.wait_s
        trouble = f"{bare_url(self.client.endpoint.base_url)}: {answer.trouble}"
        if wait_s > MAX_WAIT_S and retries.get(kind):
            raise AskError(f"{trouble} (it asks to wait {wait_s:.0f} s)")
        if not retries.get(kind):
            raise AskError(trouble)
        retries[kind] -= 1
        self.notify(f"{trouble[:MAX_LINE]}; again in {wait_s:g} s")
        self.client.sleep(wait_s)

    def request(self, messages: Sequence[Message], form: RequestForm) -> ServerAnswer:
        """Make one request, if the budget allows the worst of it. Raises AskError."""
        endpoint, tariff = self.client.endpoint, self.client.tariff
        prompt_tokens = most_tokens([*(m["content"] for m in messages), canonical(self.schema)])
        reply_tokens = endpoint.max_reply_tokens
        refusal = refusal_reason(
            self.client.budget, self.spending, prompt_tokens, reply_tokens, tariff
        )
        if refusal is not None:
            raise AskError(refusal)
        arguments = request_arguments(form, endpoint.model, messages, self.schema, reply_tokens)
        with openai_client(endpoint) as client:
            answer = send_request(client, arguments, endpoint.timeout_s)
        if answer.sent:
            used = tokens_used(answer, messages, prompt_tokens, reply_tokens)
            # What has no price, and no limit on money, counts as nothing.
            usd = tariff.usd(*used) or 0.0
            self.spending = self.spending.plus(Spending(1, sum(used), usd))
        return answer


def openai_client(endpoint: Endpoint) -> Any:
    """Return OpenAI's client for one request; the key goes here and nowhere else.

    It follows no redirect: the prompt goes to the address that the user named.
    """
    from openai import DefaultHttpxClient, OpenAI  # not on the no-op path

    return OpenAI(
        base_url=endpoint.base_url,
        api_key=api_key() or NO_KEY,
        max_retries=0,
        timeout=endpoint.timeout_s,
        http_client=DefaultHttpxClient(follow_redirects=False, timeout=endpoint.timeout_s),
    )


def first_choice(body: JsonObject) -> tuple[str, str]:
    """Return the text of a completion's first choice and why it ended. Raises AskError."""
    try:
        choice = body["choices"][0]
        text = choice["message"].get("content")
        return text if isinstance(text, str) else "", str(choice.get("finish_reason"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise AskError(
            f"the answer has no choices: {str(body.get('error') or '')[:MAX_LINE]}".rstrip(": ")
        ) from None


def api_key() -> str:
    """Return the key, from the environment; "" where there is none."""
    return (os.environ.get("SINTRA_LLM_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()


def hidden_parts(url: str) -> tuple[str | None, ...]:
    """Return the parts of an address that may be secret."""
    try:
        return urlsplit(url).password, urlsplit(url).query
    except ValueError:
        return ()


def redact(text: str, endpoint: Endpoint) -> str:
    """Return one printable line without the key, and without what an address may hide."""
    for secret in (api_key(), *hidden_parts(endpoint.base_url)):
        text = text.replace(secret, "***") if secret else text
    text = re.sub(r"//\S*@", "//", text)
    text = re.sub(r"(https?://[^\s?#]*)[?#]\S*", r"\1", text)
    text = re.sub(r"(?i)\bbearer\s+\S+|\bsk-[\w*-]+", "***", text)
    return printable_line(" ".join(text.split()), MAX_LINE)
