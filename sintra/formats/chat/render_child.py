"""Render chat templates in a process of its own: `python -m sintra.formats.chat.render_child`.

A template is a program of somebody else's. transformers' own function runs it in Jinja's sandbox;
this process adds limits on processor time, memory and files. It reads a JSON object per line from
stdin and writes one per line to stdout: first {"ready": true}, then {"text"} or {"error"} each.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any, NotRequired, TypedDict

from sintra.core.text import printable_line

CPU_S = 3.0  # processor time of a conversation, seconds; then the process is killed by SIGPROF
MEMORY = 1 << 30  # private bytes
LONGEST = 16 << 20  # characters of a conversation


class RenderOrder(TypedDict):
    """A conversation that is to be rendered."""

    template: str  # Jinja source
    messages: NotRequired[list[dict[str, Any]]]  # left out: the template is only compiled
    opening: bool  # whether the answer is opened; else the last message ends the text
    left_open: bool  # whether the last message's end is left out, so that it can go on
    bos: str  # text of the begin-of-text token
    eos: str  # text of the end-of-text token


class RenderReply(TypedDict):
    """What came of it: one of both."""

    text: NotRequired[str]
    error: NotRequired[str]  # one line


def rendered(order: RenderOrder) -> str:
    """Return a conversation as text; "" where it was only to be compiled.

    Raises whatever the template raises.
    """
    from transformers.utils import chat_template_utils  # slow to import

    messages = order.get("messages")
    if messages is None:
        chat_template_utils._compile_jinja_template(order["template"])
        return ""
    conversations: Any = chat_template_utils.render_jinja_template(
        [messages],
        chat_template=order["template"],
        add_generation_prompt=order["opening"],
        continue_final_message=order["left_open"],
        bos_token=order["bos"],
        eos_token=order["eos"],
    )
    text = str(conversations[0][0])
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters from {len(messages)} messages")
    return text


def reply_to(order: RenderOrder) -> RenderReply:
    """Render within the limits; whatever goes wrong is a line."""
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        return {"text": rendered(order)}
    except Exception as error:
        words = printable_line(" ".join(str(error).split()))[:160]
        return {"error": f"{type(error).__name__}: {words}" if words else type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def take_limits() -> None:
    """Limit this process: memory, and no byte into any file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def main() -> int:
    """Answer orders until stdin ends. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; then stdin ends
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print is no reply
    import transformers.utils.chat_template_utils  # noqa: F401 (slow: before the first order)

    take_limits()
    replies.write('{"ready": true}\n')
    replies.flush()
    for line in sys.stdin.buffer:
        replies.write(json.dumps(reply_to(json.loads(line))) + "\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
