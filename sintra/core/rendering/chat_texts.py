"""Render conversations by a chat template (in the child process).

Templates find what transformers gives them (`apply_chat_template`): Jinja's immutable sandbox with
`break` and `continue`, the tag `generation`, and its functions in place of Jinja's own. It isn't
imported for that, which takes a second and more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from sintra.core.rendering.words import Answer, Refused, with_kind

LONGEST = 4 << 20  # characters of a conversation
OPEN_END = "WHERE_THE_LAST_MESSAGE_ENDS "  # the blank shows whether the template trims


def conversation_renderer(order: dict[str, Any]) -> Answer:
    """Return a function that renders a conversation. Raises Refused for what is no template.

    A row is `{"messages", "opening", "left_open"}`: whether the answer is opened, and whether the
    last message's end is left out, so that it can go on.
    """
    try:
        template = chat_environment().from_string(order["template"])
    except Exception as error:  # whatever a template makes of Jinja's compiler
        raise Refused(with_kind(error)) from None

    def whole(messages: list[dict[str, Any]], opening: bool) -> str:
        return str(
            template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=opening,
                bos_token=order["bos"],
                eos_token=order["eos"],
            )
        )

    def render(row: dict[str, Any]) -> str:
        try:
            draw = open_ended if row["left_open"] else whole
            text = draw(row["messages"], row["opening"])
        except Exception as error:  # whatever a template makes of its messages
            raise Refused(with_kind(error)) from None
        if len(text) > LONGEST:
            raise Refused(
                f"ValueError: {len(text)} characters from {len(row['messages'])} messages"
            )
        return text

    def open_ended(messages: list[dict[str, Any]], opening: bool) -> str:
        return cut_open(messages, lambda marked: whole(marked, opening))

    return render


def cut_open(messages: list[dict[str, Any]], whole: Callable[[list[dict[str, Any]]], str]) -> str:
    """Return a conversation up to the end of its last message's words.

    Raises ValueError where the template leaves them out.
    """
    words = messages[-1]["content"]
    text = whole([*messages[:-1], messages[-1] | {"content": words + OPEN_END}])
    mark = OPEN_END.strip()
    if words.strip() not in text or mark not in text:
        raise ValueError("the last message isn't in the text")
    end = text.rindex(mark)
    trimmed = text[end : end + len(OPEN_END)] != OPEN_END
    return text[:end].rstrip() if trimmed else text[:end]


def chat_environment() -> Any:
    """Return a new Jinja environment with what transformers offers."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", generation_tag()],
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": DictMaker(),
        "namespace": plain_namespace(),
    }
    return environment


def generation_tag() -> type:
    """Return the extension whose tag marks what an assistant says: its body is rendered."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 (Jinja's own notation)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

        def body(self, caller: Callable[[], str]) -> str:
            return caller()

    return GenerationTag


def plain_namespace() -> type:
    """Return Jinja's `namespace` without attributes that start with an underscore."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace takes no attribute {name!r}")

    class PlainNamespace(Namespace):
        def __init__(*args: Any, **values: Any) -> None:  # `self` may be an attribute's name
            attributes = dict(*args[1:], **values)
            for name in attributes:
                check(name)
            Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    return PlainNamespace


class DictMaker:
    """Makes dictionaries; the class itself, with all that hangs on it, stays outside."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        """Return what `dict` makes of these."""
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return what `dict.fromkeys` makes of these."""
        return dict.fromkeys(*args)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON without Jinja's escapes of HTML's characters."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def strftime_now(format: str) -> str:
    """Return the time of this machine, written as `format` says."""
    return datetime.now().strftime(format)


def raise_exception(message: str) -> NoReturn:
    """Refuse a conversation in a template's own words."""
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
