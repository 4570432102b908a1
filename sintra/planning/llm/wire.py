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
from sintra.planning.llm.budget import about_tokens, bare_url
from sintra.planning.llm.replies import Message
from sintra.planning.state import JsonObject

SCHEMA_NAME = "edits"
ABSURD_TOKENS = 10**9  # that no answer has
MAX_BODY = 1 << 20  # bytes of an answer with all that is around the reply
UNSUPPORTED = (400, 422, 500, 501)  # how servers answer to a form that they don't know
# A proxy gave up waiting: the model behind it may have worked, and been paid.
TIMED_OUT = (408, 504, 524)
SIMPLER = {"json_schema": "json_object", "lengthless": "json_object", "json_object": "plain"}
TOO_LONG = re.compile(r"context (size|window|length)")  # no other form makes a question shorter
LENGTHS = ("minLength", "maxLength")
PLAIN = "\n\nAnswer with one JSON object that follows this schema, and nothing else:\n"


@dataclass(frozen=True)
class RequestForm:
    """How a server takes the wish for JSON, and what it calls the longest reply."""

    kind: str = "json_schema"
    """json_schema; lengthless, without the lengths of strings, which OpenAI's strict mode refuses;
    json_object with the schema beside it (llama_cpp.server); plain, with the schema in the prompt.
    """
    limit: str = "max_tokens"  # name of the argument with the longest reply


@dataclass(frozen=True)
class ServerAnswer:
    """What came of a request."""

    status: int  # of HTTP; 0 where there is none or the body is of no use
    body: JsonObject = field(default_factory=dict)  # of a completion
    trouble: str = ""  # what is wrong, in one line
    wait_s: float | None = None  # seconds that the server asks to wait
    sent: bool = True  # whether the server was reached
    billed: bool = True  # whether it may have cost something
    retry: bool = False  # whether it is worth another try


class UnusableAnswerError(Exception):
    """An answer with which nothing can be done."""


def request_arguments(
    form: RequestForm,
    model: str,
    messages: Sequence[Message],
    schema: JsonObject,
    reply_tokens: int,
) -> dict[str, Any]:
    """Return the arguments of chat.completions.create."""
    arguments: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        form.limit: reply_tokens,
    }
    if form.kind == "plain":
        content = messages[0]["content"] + PLAIN + canonical(schema)
        return arguments | {"messages": [messages[0] | {"content": content}, *messages[1:]]}
    if form.kind == "json_object":
        return arguments | {"response_format": {"type": "json_object", "schema": schema}}
    sent_schema = without_lengths(schema) if form.kind == "lengthless" else schema
    return arguments | {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": sent_schema},
        }
    }


def next_form(
    form: RequestForm, answer: ServerAnswer, schema: JsonObject, proven: bool
) -> RequestForm | None:
    """Return the form to try after this answer; None where the form isn't what is wrong.

    proven: the server took the form before.
    """
    if (
        answer.status == 400
        and form.limit == "max_tokens"
        and "max_completion_tokens" in answer.trouble
    ):
        return replace(form, limit="max_completion_tokens")
    if TOO_LONG.search(answer.trouble):
        return None
    if answer.status not in UNSUPPORTED or form.kind == "plain":
        return None
    if proven and answer.status >= 500:
        return None
    if form.kind == "json_schema" and answer.status == 400 and without_lengths(schema) != schema:
        return replace(form, kind="lengthless")
    return replace(form, kind=SIMPLER[form.kind])


def without_lengths(schema: Any) -> Any:
    """Return the schema without lengths of strings."""
    if isinstance(schema, dict):
        return {
            k: without_lengths(v)
            for k, v in schema.items()
            if not (k in LENGTHS and isinstance(v, int))
        }
    return [without_lengths(v) for v in schema] if isinstance(schema, list) else schema


def send_request(client: Any, arguments: dict[str, Any], timeout_s: float) -> ServerAnswer:
    """Make one request, without any retry.

    Raises only what has nothing to do with the network or the server.
    """
    import openai  # not on the no-op path

    deadline = time.monotonic() + timeout_s
    try:
        # As a stream of bytes, so that neither a huge answer nor one that drips can hold the study
        # up.
        with client.chat.completions.with_streaming_response.create(**arguments) as response:
            return ServerAnswer(200, read_body(response, deadline))
    except openai.APIStatusError as error:
        return answer_of_status(error)
    except UnusableAnswerError as error:
        return ServerAnswer(0, trouble=str(error))
    except Exception as error:
        return answer_of_failure(error, timeout_s)


def read_body(response: Any, deadline: float) -> JsonObject:
    """Return the body as JSON.

    deadline: by time.monotonic. Raises UnusableAnswerError, TimeoutError.
    """
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            raise UnusableAnswerError(f"the answer is larger than {MAX_BODY} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UnusableAnswerError(
            "the answer is not a chat completion; does planner.base_url end in /v1?"
        )
    return data


def answer_of_status(error: Any) -> ServerAnswer:
    """Return the answer of a status that isn't 200, from openai.APIStatusError."""
    code, body = int(error.status_code), error.body
    message = body.get("message") if isinstance(body, dict) else None
    if 300 <= code < 400:
        target = bare_url(error.response.headers.get("location", ""))
        message = (
            f"it redirects to {target}, and nothing was sent there: set planner.base_url to that "
            "address if you trust it"
        )
    return ServerAnswer(
        code,
        trouble=f"HTTP {code}: {message or body or ''}",
        wait_s=parse_retry_after(error.response.headers.get("retry-after")),
        billed=code in TIMED_OUT,
        retry=code >= 500,
    )


def parse_retry_after(value: str | None) -> float | None:
    """Return seconds from a Retry-After header, which is a number or a date.

    None where it says nothing.
    """
    try:
        seconds = float(value or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds)


def tokens_used(
    answer: ServerAnswer, messages: Sequence[Message], prompt_tokens: int, reply_tokens: int
) -> tuple[int, int]:
    """Return the tokens in and out: as the server says, else about.

    The most that it can be (prompt_tokens, reply_tokens) for an answer that was lost on the way.
    """
    if answer.status != 200:
        return (prompt_tokens, reply_tokens) if answer.billed else (0, 0)
    usage = answer.body.get("usage")
    if isinstance(usage, dict):
        values = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        counts = [n for n in values if type(n) is int and 0 <= n < ABSURD_TOKENS]
        if len(counts) == 2 and sum(counts) > 0:
            return counts[0], counts[1]
    choices = str(answer.body.get("choices"))
    return about_tokens(*(m["content"] for m in messages)), about_tokens(choices)


def answer_of_failure(error: Exception, timeout_s: float) -> ServerAnswer:
    """Return the answer of a connection that failed, at the start or on the way.

    Raises the error again if it is of another kind.
    """
    chain = cause_chain(error)
    # By name: the client's HTTP library has changed before.
    names = {c.__name__ for e in chain for c in type(e).__mro__}
    if names & {"ConnectError", "ConnectTimeout"}:
        trouble = f"no connection ({failure_word(chain)})"
        return ServerAnswer(0, trouble=trouble, sent=False, billed=False, retry=True)
    if names & {"UnsupportedProtocol", "LocalProtocolError"}:
        trouble = f"this can't be asked ({failure_word(chain)})"
        return ServerAnswer(0, trouble=trouble, sent=False, billed=False)
    if names & {"TimeoutException", "TimeoutError"}:
        return ServerAnswer(0, trouble=f"no answer within planner.timeout_s={timeout_s:g}")
    if names & {"RequestError", "APIConnectionError"}:
        trouble = f"the connection broke off ({failure_word(chain)})"
        return ServerAnswer(0, trouble=trouble, retry=True)
    raise error


def cause_chain(error: BaseException) -> list[BaseException]:
    """Return the error and what it came from."""
    chain = [error]
    while (
        cause := chain[-1].__cause__ or chain[-1].__context__
    ) is not None and cause not in chain:
        chain.append(cause)
    return chain


def failure_word(chain: Sequence[BaseException]) -> str:
    """Return the system's own word, or the kind of error.

    Never its text, which may quote a header.
    """
    words = [e.strerror for e in chain if isinstance(e, OSError) and e.strerror]
    return words[0] if words else type(chain[1] if len(chain) > 1 else chain[0]).__name__
