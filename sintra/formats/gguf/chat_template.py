"""What a chat runtime must be told of a GGUF: the template, the stop tokens and the context length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.formats.gguf import header

ROLES = ("system", "user", "assistant")
MARK = "\ue000content\ue000"


@dataclass(frozen=True)
class Chat:
    """turns: role -> (text before, text after a message); opening: what the assistant's answer
    starts after. turns is None where the template is more than a sequence of turns, or absent.
    """

    turns: dict[str, tuple[str, str]] | None
    opening: str
    stop: tuple[str, ...]
    context: int


@dataclass(frozen=True)
class Template:
    """A chat template in Jinja, and the special tokens that it may name."""

    text: str
    bos: str
    eos: str

    def render(self, messages: list[dict[str, str]], opening: bool) -> str:
        """A conversation as transformers renders it: with the opening of an answer, or with its
        last message left open.

        Raises jinja2's TemplateError where the template doesn't take such a conversation.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered = render_jinja_template(
            [messages],
            chat_template=self.text,
            add_generation_prompt=opening,
            continue_final_message=not opening,
            bos_token=self.bos,
            eos_token=self.eos,
        )[0]
        return str(rendered[0])


def read_template(path: Path) -> Template | None:
    """A GGUF's chat template, where it has one."""
    return _template(header.reader(path))


def _template(reader: Any) -> Template | None:
    text = _value(reader, "tokenizer.chat_template")
    return Template(str(text), _token(reader, "bos"), _token(reader, "eos")) if text else None


def read_chat(path: Path) -> Chat:
    """From a GGUF's own metadata."""
    reader = header.reader(path)
    stops = tuple(dict.fromkeys(t for t in (_token(reader, "eos"), _token(reader, "eot")) if t))
    context = int(_value(reader, f"{_value(reader, 'general.architecture')}.context_length", 2048))
    found = _template(reader)
    turns, opening = take_apart(found.text, found.bos, found.eos) if found else (None, "")
    return Chat(turns, opening, stops, context)


def _value(reader: Any, name: str, default: Any = None) -> Any:
    field = reader.get_field(name)
    return default if field is None else field.contents()


def _token(reader: Any, name: str) -> str:
    number = _value(reader, f"tokenizer.ggml.{name}_token_id")
    field = reader.get_field("tokenizer.ggml.tokens")
    return "" if number is None or field is None else str(field.contents(int(number)))


def take_apart(
    template: str | None, bos: str, eos: str
) -> tuple[dict[str, tuple[str, str]] | None, str]:
    """A Jinja chat template as plain text around each role's content, and the opening of the
    answer.

    The parts are found by rendering marked messages, then proved by rendering a whole conversation
    both ways; a template that does more than put text around messages gives (None, "").
    """
    if not template:
        return None, ""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    compiled = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        template
    )

    def render(messages: list[dict[str, str]], opening: bool = False) -> str:
        text = compiled.render(
            messages=messages,
            add_generation_prompt=opening,
            bos_token=bos,
            eos_token=eos,
            tools=None,
        )
        return str(text).removeprefix(bos) if bos else str(text)

    def said(*roles: str) -> list[dict[str, str]]:
        return [{"role": r, "content": f"{MARK}{i}"} for i, r in enumerate(roles)]

    try:
        turns = {"user": _around(render(said("user")), 0)}
        both = render(said("user", "assistant"))
        turns["assistant"] = _around(both.removeprefix(render(said("user"))), 1)
        with_system = render(said("system", "user"))
        before, after = _around(with_system, 0)
        user_before, user_after = turns["user"]
        turns["system"] = (before, after.removesuffix(f"{user_before}{MARK}1{user_after}"))
        opening = render(said("user"), True).removeprefix(render(said("user")))
        whole = said("system", "user", "assistant", "user")
        joined = (
            "".join(turns[m["role"]][0] + m["content"] + turns[m["role"]][1] for m in whole)
            + opening
        )
        return (turns, opening) if joined == render(whole, True) else (None, "")
    except (TemplateError, ValueError):
        return None, ""


def _around(text: str, number: int) -> tuple[str, str]:
    before, found, after = text.partition(f"{MARK}{number}")
    if not found:
        raise ValueError("the template drops a message")
    return before, after
