"""Read what a chat runtime needs from a GGUF: template, stop tokens and context length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sintra.formats.gguf.header import ArrayInfo, Header, read_gguf_header, read_texts

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
    preamble: str  # the text before a conversation whose first message is of no system
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

    def around_question(self) -> tuple[str, str] | None:
        """Return the text before a first user's words, and from their end to the opened answer.

        None where the template fails, or drops the words.
        """
        from jinja2.exceptions import TemplateError  # not on the no-op path

        try:
            return _split_around(self.render(_conversation("user"), opening=True), 0)
        except (TemplateError, ValueError):
            return None


def read_chat_template(path: Path) -> ChatTemplate | None:
    """Read a GGUF's chat template; None where it has none."""
    header = read_gguf_header(path)
    return _template_of(header, _special_tokens(path, header))


def _template_of(header: Header, tokens: Mapping[str, str]) -> ChatTemplate | None:
    """Return the template; tokens: what `_special_tokens` returns."""
    text = header.text("tokenizer.chat_template")
    return ChatTemplate(text, tokens["bos"], tokens["eos"]) if text else None


def read_chat_format(path: Path) -> ChatFormat:
    """Read how conversations are written from a GGUF's own metadata."""
    header = read_gguf_header(path)
    tokens = _special_tokens(path, header)
    ends = (tokens["eos"], tokens["eot"])
    length = header.metadata.get(f"{header.text('general.architecture')}.context_length")
    context = length if isinstance(length, int) else 2048
    template = _template_of(header, tokens)
    added = bool(header.metadata.get("tokenizer.ggml.add_bos_token", True))
    split = NO_TURNS
    if template:
        split = split_template(template.text, template.bos, template.eos, added)
    return ChatFormat(*split, tuple(dict.fromkeys(t for t in ends if t)), context)


def _special_tokens(path: Path, header: Header) -> dict[str, str]:
    """Return the texts of the special tokens "bos", "eos" and "eot"; "" where there is none."""
    ids = {n: header.metadata.get(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos", "eot")}
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    texts: dict[int, str] = {}
    if isinstance(tokens, ArrayInfo):
        texts = read_texts(path, tokens, {n for n in ids.values() if isinstance(n, int)})
    return {name: texts.get(n, "") if isinstance(n, int) else "" for name, n in ids.items()}


class Split(NamedTuple):
    """A template as plain text: the first fields of ChatFormat."""

    turns: Turns | None
    opening: str
    preamble: str


NO_TURNS = Split(None, "", "")


def split_template(template: str | None, bos: str, eos: str, adds_bos: bool = True) -> Split:
    """Return a Jinja chat template as plain text around each role's content, the opening of the
    answer, and what comes first where no system message does.

    The parts come from rendering messages with placeholders, then whole conversations are rendered
    both ways and compared. adds_bos: whether the runtime puts begin of text first, which is then
    left out here. A template that does more than put text around messages gives NO_TURNS.
    """
    if not template:
        return NO_TURNS
    from jinja2.exceptions import TemplateError  # not on the no-op path

    try:
        render = _renderer(template, bos, eos, adds_bos)
        split = _read_parts(render)
        whole = (["system", "user", "assistant", "user"], ["user", "assistant", "user"])
        same = all(_joined(split, roles) == render(_conversation(*roles), True) for roles in whole)
        return split if same else NO_TURNS
    except (TemplateError, ValueError):
        return NO_TURNS


def _read_parts(render: Callable[[list[Message], bool], str]) -> Split:
    """Return the parts of a template. Raises ValueError and TemplateError where it drops one.

    A later user's turn is without what stands before the first.
    """
    alone = render(_conversation("user"), False)
    pair = render(_conversation("user", "assistant"), False)
    three = render(_conversation("user", "assistant", "user"), False)
    turns = {
        "user": _split_around(three.removeprefix(pair), 2),
        "assistant": _split_around(pair.removeprefix(alone), 1),
    }
    user_before, user_after = turns["user"]
    first, _ = _split_around(alone, 0)
    if not first.endswith(user_before):
        raise ValueError("the first turn is another one")
    before, after = _split_around(render(_conversation("system", "user"), False), 0)
    turns["system"] = (before, after.removesuffix(f"{user_before}{PLACEHOLDER}1{user_after}"))
    opening = render(_conversation("user"), True).removeprefix(alone)
    return Split(turns, opening, first.removesuffix(user_before))


def _joined(split: Split, roles: list[str]) -> str:
    """Return a conversation of placeholders put together from the parts, with an opening."""
    assert split.turns is not None
    texts = [
        split.turns[m["role"]][0] + m["content"] + split.turns[m["role"]][1]
        for m in _conversation(*roles)
    ]
    return ("" if roles[0] == "system" else split.preamble) + "".join(texts) + split.opening


def _renderer(
    template: str, bos: str, eos: str, adds_bos: bool
) -> Callable[[list[Message], bool], str]:
    """Return a function that renders messages with or without the opening of an answer.

    A begin-of-text token at the front is cut off where the runtime adds it. Raises jinja2's
    TemplateError, as does the function, for a template that cannot be compiled or rendered.
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
        return str(text).removeprefix(bos) if bos and adds_bos else str(text)

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
