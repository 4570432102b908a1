"""One request to an OpenAI-compatible server: in which form the reply is asked for, and what came
of it, as a value.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

from sintra.core.canonical import canonical
from sintra.planning.llm.budget import about_tokens

NAME = "edits"
ABSURD = 10**9  # tokens that no answer has
BODY = 1 << 20  # bytes of an answer with all that is around the reply
UNSUPPORTED = (400, 422, 500, 501)  # how servers answer to a form that they don't know
TIMED_OUT = (
    408,
    504,
    524,
)  # a proxy gave up waiting: the model behind it may have worked, and been paid
AFTER = {"json_schema": "json_object", "lengthless": "json_object", "json_object": "plain"}
TOO_LONG = re.compile(r"context (size|window|length)")  # no other form makes a question shorter
LENGTHS = ("minLength", "maxLength")
PLAIN = "\n\nAnswer with one JSON object that follows this schema, and nothing else:\n"


@dataclass(frozen=True)
class Form:
    """How a server takes the wish for JSON, and what it calls the longest reply.

    kind: json_schema; lengthless, the same without lengths of strings, which OpenAI's strict mode
    refuses; json_object with the schema beside it (llama_cpp.server); plain, with the schema in the
    prompt.
    """

    kind: str = "json_schema"
    limit: str = "max_tokens"


@dataclass(frozen=True)
class Got:
    """What came of a request. status: HTTP's, 0 where there is none or the body is of no use.

    sent: the server was reached; billed: it may have cost something; passing: worth another try;
    wait_s: what the server asks.
    """

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""
    wait_s: float | None = None
    sent: bool = True
    billed: bool = True
    passing: bool = False


class Unusable(Exception):
    """An answer with which nothing can be done."""


def asked_as(
    form: Form, model: str, messages: Sequence[dict[str, str]], schema: dict[str, Any], longest: int
) -> dict[str, Any]:
    """The arguments of chat.completions.create."""
    asked: dict[str, Any] = {"model": model, "messages": list(messages), form.limit: longest}
    if form.kind == "plain":
        first = messages[0] | {"content": messages[0]["content"] + PLAIN + canonical(schema)}
        return asked | {"messages": [first, *messages[1:]]}
    if form.kind == "json_object":
        return asked | {"response_format": {"type": "json_object", "schema": schema}}
    sent = lengthless(schema) if form.kind == "lengthless" else schema
    return asked | {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": NAME, "strict": True, "schema": sent},
        }
    }


def next_form(form: Form, got: Got, schema: dict[str, Any], proven: bool) -> Form | None:
    """The form to try after this answer; None where the form isn't what is wrong. proven: the
    server took it before.
    """
    if got.status == 400 and form.limit == "max_tokens" and "max_completion_tokens" in got.trouble:
        return replace(form, limit="max_completion_tokens")
    if TOO_LONG.search(got.trouble):
        return None
    if got.status not in UNSUPPORTED or form.kind == "plain" or (proven and got.status >= 500):
        return None
    if form.kind == "json_schema" and got.status == 400 and lengthless(schema) != schema:
        return replace(form, kind="lengthless")
    return replace(form, kind=AFTER[form.kind])


def lengthless(schema: Any) -> Any:
    """The schema without lengths of strings."""
    if isinstance(schema, dict):
        return {
            k: lengthless(v) for k, v in schema.items() if not (k in LENGTHS and isinstance(v, int))
        }
    return [lengthless(v) for v in schema] if isinstance(schema, list) else schema


def send(client: Any, asked: dict[str, Any], timeout_s: float) -> Got:
    """One request, without any retry. Raises only what has nothing to do with the network or the
    server.
    """
    import openai

    deadline = time.monotonic() + timeout_s
    try:
        # As a stream of bytes, so that neither a huge answer nor one that drips can hold the study
        # up.
        with client.chat.completions.with_streaming_response.create(**asked) as response:
            return Got(200, received(response, deadline))
    except openai.APIStatusError as error:
        return refused(error)
    except Unusable as error:
        return Got(0, trouble=str(error))
    except Exception as error:
        return broken(error, timeout_s)


def received(response: Any, deadline: float) -> dict[str, Any]:
    """The body as JSON. Raises Unusable, TimeoutError."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > BODY:
            raise Unusable(f"the answer is larger than {BODY} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise Unusable("the answer is no chat completion; does planner.base_url end in /v1?")
    return data


def refused(error: Any) -> Got:
    """From a status that isn't 200."""
    code, body = int(error.status_code), error.body
    said = body.get("message") if isinstance(body, dict) else None
    wait = retry_after(error.response.headers.get("retry-after"))
    return Got(
        code,
        {},
        f"HTTP {code}: {said or body or ''}",
        wait,
        billed=code in TIMED_OUT,
        passing=code >= 500,
    )


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date; None where it says nothing."""
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds)


def used(got: Got, messages: Sequence[dict[str, str]], most: int, longest: int) -> tuple[int, int]:
    """Tokens in and out: as the server says, else about; the worst for an answer that was lost on
    the way.
    """
    if got.status != 200:
        return (most, longest) if got.billed else (0, 0)
    usage = got.body.get("usage")
    told = (
        [usage.get(k) for k in ("prompt_tokens", "completion_tokens")]
        if isinstance(usage, dict)
        else []
    )
    counts = [n for n in told if type(n) is int and 0 <= n < ABSURD]
    if len(counts) == 2 and sum(counts) > 0:
        return counts[0], counts[1]
    return about_tokens(*(m["content"] for m in messages)), about_tokens(
        str(got.body.get("choices"))
    )


def broken(error: Exception, timeout_s: float) -> Got:
    """From a connection that failed, at the start or on the way. Raises the error again if it is of
    another kind.
    """
    chain = causes(error)
    names = {
        c.__name__ for e in chain for c in type(e).__mro__
    }  # by name: the client's HTTP library has changed before
    if names & {"ConnectError", "ConnectTimeout"}:
        return Got(
            0, trouble=f"no connection ({reason(chain)})", sent=False, billed=False, passing=True
        )
    if names & {"UnsupportedProtocol", "LocalProtocolError"}:
        return Got(0, trouble=f"this can't be asked ({reason(chain)})", sent=False, billed=False)
    if names & {"TimeoutException", "TimeoutError"}:
        return Got(0, trouble=f"no answer within planner.timeout_s={timeout_s:g}")
    if names & {"RequestError", "APIConnectionError"}:
        return Got(0, trouble=f"the connection broke off ({reason(chain)})", passing=True)
    raise error


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from."""
    chain = [error]
    while (
        cause := chain[-1].__cause__ or chain[-1].__context__
    ) is not None and cause not in chain:
        chain.append(cause)
    return chain


def reason(chain: Sequence[BaseException]) -> str:
    """The system's own word, or the kind of error: never its text, which may quote a header."""
    words = [e.strerror for e in chain if isinstance(e, OSError) and e.strerror]
    return words[0] if words else type(chain[1] if len(chain) > 1 else chain[0]).__name__
