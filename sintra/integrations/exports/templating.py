"""Render the files of an export: every value is quoted by the rules of the file's format.

What a template prints comes from a result, and that from profiles, models and other people: no
value brings a line break or a control character, and in Markdown none is markup. A value that
stands in a code span or block is marked with the filter `code`, one in a Dockerfile's string with
`dockerfile`.
"""

from __future__ import annotations

import re
from pathlib import Path

from sintra.core.template_files import render_file

TEMPLATES = Path(__file__).with_name("templates")
# what has a meaning in CommonMark or GitHub's tables; `_` only at the edge of a word
MARKUP = re.compile(
    r"([\\`*\[\]|$]|<(?=[A-Za-z/!?])|~(?=~)|(?<!\w)_|_(?!\w)|^(?:[#+>-]|\d+\.)(?=\s))"
)
AUTOLINK = re.compile(r"(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)


class Code(str):
    """A text in a code span or block of Markdown: printed as it is."""

    __slots__ = ()


def single_line(value: object) -> object:
    """Return a value as a template prints it: a text in one line, without control characters."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return type(value)("".join(c if c.isprintable() else " " for c in value))


def markdown(value: object) -> object:
    """Return a text in which Markdown sees no markup; code and numbers as they are."""
    value = single_line(value)
    if isinstance(value, Code) or not isinstance(value, str):
        return value
    text = MARKUP.sub(r"\\\1", value.replace("&", "&amp;"))
    return AUTOLINK.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0]), text)


def code(value: object) -> Code:
    """Return a value for a code span or block, which a backtick would end."""
    return Code(str(single_line(str(value))).replace("`", "'"))


def dockerfile(value: object) -> str:
    """Return a text as a double-quoted string of a Dockerfile, in which `$` would be a variable."""
    text = str(single_line(str(value)))
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def render_template(template: str, /, **values: object) -> str:
    """Render a file of templates/. Raises jinja2.UndefinedError for a missing value."""
    return render_file(
        TEMPLATES / template,
        values,
        finalize=markdown if template.endswith(".md") else single_line,
        filters={"code": code, "dockerfile": dockerfile},
    )
