"""Render a task file's templates, and search with its patterns (in the child process).

Templates have the names and filters that lm-eval's environment has, in Jinja's sandbox.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from sintra.core.rendering.words import Answer, Refused, short

LONGEST = 1 << 20  # characters of a rendered text


def row_renderer(order: dict[str, Any]) -> Answer:
    """Return a function that renders a row by every template: name -> value.

    Raises Refused for a text that is not a template.
    """
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = replace_pattern
    compiled = {}
    for name, text, kind in order["templates"]:
        try:
            compiled[name] = (environment.from_string(text), kind)
        except Exception as error:  # whatever a template makes of Jinja's compiler
            raise Refused(f"{name}: not a Jinja template: {short(error)}") from None

    def render(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value_of(name, *pair, row) for name, pair in compiled.items()}

    return render


def replace_pattern(text: str, pattern: str, repl: str, count: int = 0) -> str:
    """Do what lm-eval's filter of this name does."""
    return re.sub(pattern, repl, text, count=count)


def value_of(name: str, template: Any, kind: str, row: dict[str, Any]) -> Any:
    """Return a rendered template as lm-eval reads it. Raises Refused."""
    from jinja2 import UndefinedError

    try:
        text = template.render(**row)
    except UndefinedError as error:
        missing = re.fullmatch(r"'(\w+)' is undefined", str(error))
        raise Refused(f"has no {missing[1]!r}" if missing else f"{name}: {short(error)}") from None
    except Exception as error:  # whatever a template makes of its row
        raise Refused(f"{name}: {type(error).__name__}: {short(error)}") from None
    if len(text) > LONGEST:
        raise Refused(f"{name}: its text is longer than {LONGEST} characters")
    return READ[kind](text)


def read_number(text: str) -> Any:
    """Return digits as a whole number (the index of a choice), else the text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def read_list(text: str) -> Any:
    """Return what is written as a Python list as a list, else the text."""
    if len(text) < 2 or (text[0], text[-1]) != ("[", "]"):
        return text
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text
    return value


def read_target(text: str) -> Any:
    """Return an index, a list, or the text."""
    number = read_number(text)
    return number if isinstance(number, int) else read_list(text)


def read_choices(text: str) -> Any:
    """Return the list that a text writes in Python. Raises Refused."""
    value = read_list(text.strip())
    if not isinstance(value, list):
        raise Refused("doc_to_choice: its text is not a list in Python's notation")
    return value


READ: dict[str, Callable[[str], Any]] = {
    "text": str,
    "number": read_number,
    "list": read_list,
    "target": read_target,
    "choices": read_choices,
}


def pattern_finder(order: dict[str, Any]) -> Answer:
    """Return a function that extracts from a text what lm-eval's filter `regex` extracts.

    Raises Refused for a text that is not a pattern.
    """
    group, fallback = order["group"], order["fallback"]
    try:
        pattern = re.compile(order["pattern"])
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"not a regular expression: {short(error)}") from None

    def find(text: str) -> str:
        found = pattern.findall(text)
        try:
            match = found[group] if found else fallback
        except IndexError:
            raise Refused(f"there is no match number {group}") from None
        if isinstance(match, tuple):
            match = next((m for m in match if m), fallback)
        return str(match).strip()

    return find
