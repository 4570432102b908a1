"""Read what a chat runtime needs from a GGUF: template, stop tokens and context length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.formats.gguf import header

ROLES = ("system", "user", "assistant")
PLACEHOLDER = "\ue000content\ue000"  # stands for a message's content; private-use characters
Message = dict[str, str]  # {"role", "content"}
Turns = dict[str, tuple[str, str]]  # role -> text before and text after a message's content


@dataclass(frozen=True)
class ChatFormat:
    """How a model's conversations are written as text."""

    turns: Turns | None
    """None where there is no template, or it is more than a sequence of turns."""
    opening: str  # the text after which the assistant's answer starts
    stop: tuple[str, ...]  # texts of the tokens that end an answer
    context: int  # context length that the model was trained for, tokens


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in Jinja, and the special tokens that it may name."""

    text: str  # the Jinja source
    bos: str  # text of the begin-of-text token; "" where there is none
    eos: str  # text of the end-of-text token; "" where there is none

    def render(self, messages: list[Message], opening: bool) -> str:
        """Return a conversation as transformers renders it.

        It ends with the opening of an answer, or (opening=False) with its last message left open.
        Raises jinja2's TemplateError where the template does not take such a conversation.
        """
        # an optional package, slow to import
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


def read_chat_template(path: Path) -> ChatTemplate | None:
    """Read a GGUF's chat template; None where it has none."""
    return _template_of(header.open_gguf(path))


def _template_of(reader: Any) -> ChatTemplate | None:
    text = _metadata(reader, "tokenizer.chat_template")
    if not text:
        return None
    return ChatTemplate(str(text), _token_text(reader, "bos"), _token_text(reader, "eos"))


def read_chat_format(path: Path) -> ChatFormat:
    """Read how conversations are written from a GGUF's own metadata."""
    reader = header.open_gguf(path)
    ends = (_token_text(reader, "eos"), _token_text(reader, "eot"))
    architecture = _metadata(reader, "general.architecture")
    context = int(_metadata(reader, f"{architecture}.context_length", 2048))
    template = _template_of(reader)
    turns, opening = (
        split_template(template.text, template.bos, template.eos) if template else (None, "")
    )
    return ChatFormat(turns, opening, tuple(dict.fromkeys(t for t in ends if t)), context)


def _metadata(reader: Any, name: str, default: Any = None) -> Any:
    field = reader.get_field(name)
    return default if field is None else field.contents()


def _token_text(reader: Any, name: str) -> str:
    """Return the text of a special token ("bos", "eos", "eot"); "" where there is none."""
    number = _metadata(reader, f"tokenizer.ggml.{name}_token_id")
    tokens = reader.get_field("tokenizer.ggml.tokens")
    return "" if number is None or tokens is None else str(tokens.contents(int(number)))


def split_template(template: str | None, bos: str, eos: str) -> tuple[Turns | None, str]:
    """Return a Jinja chat template as plain text around each role's content, and the opening of
    the answer.

    The parts come from rendering messages with placeholders, then a whole conversation is rendered
    both ways and compared. A template that does more than put text around messages gives
    (None, "").
    """
    if not template:
        return None, ""
    from jinja2.exceptions import TemplateError  # not on the no-op path

    render = _renderer(template, bos, eos)
    try:
        turns = {"user": _split_around(render(_conversation("user"), False), 0)}
        both = render(_conversation("user", "assistant"), False)
        alone = render(_conversation("user"), False)
        turns["assistant"] = _split_around(both.removeprefix(alone), 1)
        before, after = _split_around(render(_conversation("system", "user"), False), 0)
        user_before, user_after = turns["user"]
        turns["system"] = (before, after.removesuffix(f"{user_before}{PLACEHOLDER}1{user_after}"))
        opening = render(_conversation("user"), True).removeprefix(alone)
        whole = _conversation("system", "user", "assistant", "user")
        joined = "".join(turns[m["role"]][0] + m["content"] + turns[m["role"]][1] for m in whole)
        return (turns, opening) if joined + opening == render(whole, True) else (None, "")
    except (TemplateError, ValueError):
        return None, ""


def _renderer(template: str, bos: str, eos: str) -> Callable[[list[Message], bool], str]:
    """Return a function that renders messages with or without the opening of an answer.

    A begin-of-text token at the front is cut off. Raises jinja2's TemplateError, as does the
    function, for a template that cannot be compiled or rendered.
    """
    # not on the no-op path
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    compiled = environment.from_string(template)

    def render(messages: list[Message], opening: bool) -> str:
        text = compiled.render(
            messages=messages,
            add_generation_prompt=opening,
            bos_token=bos,
            eos_token=eos,
            tools=None,
        )
        return str(text).removeprefix(bos) if bos else str(text)

    return render


def _conversation(*roles: str) -> list[Message]:
    """Return a message of each role, whose content is a numbered placeholder."""
    return [{"role": r, "content": f"{PLACEHOLDER}{i}"} for i, r in enumerate(roles)]


def _split_around(text: str, number: int) -> tuple[str, str]:
    """Return the text before and after a placeholder. Raises ValueError where it is missing."""
    before, placeholder, after = text.partition(f"{PLACEHOLDER}{number}")
    if not placeholder:
        raise ValueError("the template drops a message")
    return before, after
