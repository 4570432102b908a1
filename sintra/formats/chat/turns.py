"""Take a chat template apart: the text around each role's content, where it is no more than that.

The parts come from rendering messages with placeholders; then whole conversations are put together
from the parts and compared with what the template makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sintra.formats.chat.renderer import (
    Conversation,
    Message,
    TemplateFailed,
    TemplateSource,
    render,
    render_all,
)

ROLES = ("system", "user", "assistant")
# stands for a message's content; private-use characters, and what an escape would change
PLACEHOLDER = '\ue000a "b"\n<c>\ue000'
Turns = dict[str, tuple[str, str]]  # role -> text before and text after a message's content
Request = tuple[tuple[str, ...], bool]  # roles of a conversation, and whether an answer is opened
PROBES: tuple[Request, ...] = (
    (("user",), False),
    (("user",), True),
    (("user", "assistant"), False),
    (("user", "assistant", "user"), False),
    (("user", "assistant", "user"), True),
    (("system", "user"), False),
    (("system", "user", "assistant", "user"), True),
)
WHOLE = (PROBES[4], PROBES[6])  # what the parts are proved on


class Split(NamedTuple):
    """A template as plain text."""

    turns: Turns | None
    opening: str  # the text after which the assistant's answer starts
    preamble: str  # the text before a conversation whose first message is of no system


NO_TURNS = Split(None, "", "")


@dataclass(frozen=True)
class TemplateReading:
    """What a template makes of conversations."""

    split: Split = NO_TURNS
    lead: str = ""
    """Begin of text that a turn starts with and the runtime puts first itself: it is left out of
    the first turn."""
    ending: str = ""  # what follows an assistant's last words; "" where that isn't known
    reason: str = ""  # why there are no turns, in a few words; "" where there are
    works: bool = True  # whether it renders any conversation at all


def split_template(template: str | None, bos: str, eos: str, adds_bos: bool = True) -> Split:
    """Return a Jinja chat template as plain text around each role's content, the opening of the
    answer, and what comes first where no system message does.

    adds_bos: whether the runtime puts begin of text first, which is then left out here, but where
    a turn starts with it (`TemplateReading.lead`). A template that does more than put text around
    messages gives NO_TURNS.
    """
    return read_template(TemplateSource(template or "", bos, eos), adds_bos).split


def read_template(source: TemplateSource, adds_bos: bool) -> TemplateReading:
    """Render some conversations and take the template apart. Never raises for what is in it."""
    if not source.text:
        return TemplateReading(reason="there is none")
    try:
        texts, failures = _render_probes(source)
    except TemplateFailed as error:
        return TemplateReading(reason=f"it fails: {error}", works=False)
    if not texts:
        return TemplateReading(reason=f"it fails: {failures[0]}", works=_takes_parts(source))
    ending = _ending(texts.get(PROBES[2], ""))
    if failures:
        system = len(texts) == sum("system" not in roles for roles, _ in PROBES)
        words = "it takes no system message" if system else "it fails"
        return TemplateReading(ending=ending, reason=f"{words}: {failures[0]}")
    try:
        split = _read_parts(texts)
    except ValueError as error:
        return TemplateReading(ending=ending, reason=str(error))
    if any(_joined(split, roles) != texts[roles, opening] for roles, opening in WHOLE):
        return TemplateReading(ending=ending, reason="it does more than put text around messages")
    split, lead = _without_bos(split, source.bos if adds_bos else "")
    return TemplateReading(split, lead, ending)


def compile_error(text: str) -> str:
    """Return why a template is no Jinja of transformers'; "" where it is."""
    try:
        render_all(TemplateSource(text, "", ""), [])
    except TemplateFailed as error:
        return str(error)
    return ""


def _render_probes(source: TemplateSource) -> tuple[dict[Request, str], list[str]]:
    """Return the conversations of PROBES as text, and why others failed.

    Raises TemplateFailed for a template that can't be compiled or doesn't end.
    """
    asked = [Conversation(conversation(*roles), opening) for roles, opening in PROBES]
    answers = dict(zip(PROBES, render_all(source, asked), strict=True))
    texts = {request: text for request, text in answers.items() if isinstance(text, str)}
    return texts, [str(text) for text in answers.values() if isinstance(text, TemplateFailed)]


def _takes_parts(source: TemplateSource) -> bool:
    """Return whether a template renders a message that is a list of parts, as of images."""
    parts = [{"role": "user", "content": [{"type": "text", "text": PLACEHOLDER}]}]
    try:
        return bool(render(source, Conversation(parts, opening=True)))
    except TemplateFailed:
        return False


def _ending(pair: str) -> str:
    """Return what follows the assistant's words in a question with its answer."""
    _, placeholder, after = pair.partition(f"{PLACEHOLDER}1")
    return after if placeholder else ""


def _read_parts(texts: dict[Request, str]) -> Split:
    """Return the parts of a template. Raises ValueError where it drops one.

    A later user's turn is without what stands before the first.
    """
    alone, opened, pair, three, _, with_system, _ = (texts[probe] for probe in PROBES)
    turns = {
        "user": split_around(three.removeprefix(pair), 2),
        "assistant": split_around(pair.removeprefix(alone), 1),
    }
    user_before, user_after = turns["user"]
    first, _ = split_around(alone, 0)
    if not first.endswith(user_before):
        raise ValueError("its first turn is unlike the later ones")
    if PLACEHOLDER + "0" not in with_system:
        raise ValueError("it takes no system message, or changes it")
    before, after = split_around(with_system, 0)
    turns["system"] = (before, after.removesuffix(f"{user_before}{PLACEHOLDER}1{user_after}"))
    return Split(turns, opened.removeprefix(alone), first.removesuffix(user_before))


def _joined(split: Split, roles: Sequence[str]) -> str:
    """Return a conversation of placeholders put together from the parts, with an opening."""
    assert split.turns is not None
    texts = [
        split.turns[m["role"]][0] + m["content"] + split.turns[m["role"]][1]
        for m in conversation(*roles)
    ]
    return ("" if roles[0] == "system" else split.preamble) + "".join(texts) + split.opening


def _without_bos(split: Split, bos: str) -> tuple[Split, str]:
    """Take the begin of text, which the runtime adds, out of the front of every conversation.

    bos: its text; "" where the runtime adds none. Returns the lead, too, where every turn starts
    with it (`<|im_start|>` of SmolLM2): then it belongs to the turns and stays in them.
    """
    assert split.turns is not None
    preamble = split.preamble.removeprefix(bos)
    only_bos = bool(split.preamble) and not preamble  # before the turns: then these are whole
    if bos and split.turns["user"][0].startswith(bos) and not only_bos:
        return split._replace(preamble=preamble), bos
    before, after = split.turns["system"]
    turns = split.turns | {"system": (before.removeprefix(bos), after)}
    return split._replace(turns=turns, preamble=preamble), ""


def conversation(*roles: str) -> list[Message]:
    """Return a message of each role, whose content is a numbered placeholder."""
    return [{"role": r, "content": f"{PLACEHOLDER}{i}"} for i, r in enumerate(roles)]


def split_around(text: str, number: int) -> tuple[str, str]:
    """Return the text before and after a placeholder. Raises ValueError where it is missing."""
    before, placeholder, after = text.partition(f"{PLACEHOLDER}{number}")
    if not placeholder:
        raise ValueError("it drops or changes a message")
    return before, after
