"""Fill in a task's questions, answers and choices from the rows of its data.

The fields have lm-eval's names: doc_to_text, doc_to_target, doc_to_choice, description. What a file
says is the name of a column, or a template, which is rendered in a child process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sintra.config.tasks.format import CHOICE, GENERATE
from sintra.config.tasks.templates import Kind, Row, Template, TemplateError, render_rows
from sintra.core.errors import UserError, nearest

Fields = dict[str, Any]  # of one row: lm-eval's name -> value


class Rule(NamedTuple):
    """How a field is made."""

    field: str  # lm-eval's name
    key: str  # in the task file
    kind: Kind  # how a template's text is read


TEXT, TARGET, CHOICES = "doc_to_text", "doc_to_target", "doc_to_choice"
OWN_RULES = {
    "choice": (
        Rule(TEXT, "prompt", "number"),
        Rule(TARGET, "answer", "target"),
        Rule(CHOICES, "choices", "choices"),
    ),
    "answer": (Rule(TEXT, "prompt", "text"), Rule(TARGET, "answer", "text")),
    "summary": (Rule(TEXT, "prompt", "text"), Rule(TARGET, "answer", "text")),
    "code": (Rule(TEXT, "prompt", "text"), Rule(TARGET, "tests", "text")),
}


def rules_of(task: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return how the fields of a task are made."""
    if "kind" in task:
        return OWN_RULES[task["kind"]]
    chosen = task.get(CHOICES) is not None
    rules = (
        Rule("description", "description", "text"),
        Rule(TEXT, TEXT, "number" if chosen else "text"),
        Rule(TARGET, TARGET, "target" if chosen else "list"),
        Rule(CHOICES, CHOICES, "choices"),
    )
    return tuple(rule for rule in rules if task.get(rule.key) is not None)


def fill_fields(task: Mapping[str, Any], rows: Sequence[Row], name: str) -> list[Fields]:
    """Return the fields of every row of a data file. Raises UserError with the row.

    name: the file's, for messages.
    """
    rules = rules_of(task)
    templates = {
        r: Template(r.key, task[r.key], r.kind) for r in rules if is_template(task, r, rows)
    }
    try:
        rendered = render_rows(list(templates.values()), rows)
    except TemplateError as error:
        raise UserError(worded(error, rows, name)) from None
    filled = []
    for number, (row, values) in enumerate(zip(rows, rendered, strict=True), 1):
        try:
            fields = {
                r.field: values[r.key] if r in templates else given(task, r, row) for r in rules
            }
            check_fields(task, fields)
        except TemplateError as error:
            raise UserError(worded(TemplateError(str(error), number), rows, name)) from None
        filled.append(fields)
    return filled


def worded(error: TemplateError, rows: Sequence[Row], name: str) -> str:
    """Return what is wrong with a row in one line."""
    text, row = str(error), rows[(error.row or 1) - 1]
    if text.startswith("has no "):
        text += f": {nearest(text.removeprefix('has no ').strip(chr(39)), map(str, row))}"
    return (
        f"{name}, row {error.row} {text}"
        if text.startswith("has")
        else (f"{name}, row {error.row}: {text}")
    )


def is_template(task: Mapping[str, Any], rule: Rule, rows: Sequence[Row]) -> bool:
    """Return whether a field is rendered, and not a column or the same in every row.

    A text without braces is a column in the project's own format, and itself in lm-eval's.
    """
    text = task[rule.key]
    if not isinstance(text, str) or (rows and text in rows[0]):
        return False
    return "{" in text or rule.kind == "choices" or "kind" not in task


def given(task: Mapping[str, Any], rule: Rule, row: Row) -> Any:
    """Return a column's value, or what the file gives for all rows. Raises TemplateError."""
    value = task[rule.key]
    if isinstance(value, dict):
        return list(value.values())
    if not isinstance(value, str):
        return value
    if value not in row:
        raise TemplateError(f"has no {value!r}")
    return row[value]


def check_fields(task: Mapping[str, Any], fields: Fields) -> None:
    """Check that lm-eval can use a row's fields, and make texts of texts. Raises TemplateError."""
    kind = task.get("kind") or task.get("output_type", GENERATE)
    text, target = fields[TEXT], fields[TARGET]
    if kind in ("choice", CHOICE):
        return check_choices(fields)
    if isinstance(text, dict | list) or text is None:
        raise TemplateError("the prompt is not a text")
    fields[TEXT] = str(text)
    if target is None or isinstance(target, dict):
        raise TemplateError("the answer is not a text")
    if kind == GENERATE and isinstance(target, list):
        fields[TARGET] = [str(value) for value in target]
    elif kind not in ("answer", "code", "summary"):
        fields[TARGET] = str(target)
    return None


def check_choices(fields: Fields) -> None:
    """Check a row of a question with choices. Raises TemplateError."""
    text, target, choices = fields[TEXT], fields[TARGET], fields[CHOICES]
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise TemplateError("the choices are not a list of texts")
    if not choices:
        raise TemplateError("there are no choices")
    if not isinstance(text, str | int):
        raise TemplateError("the prompt is not a text")
    several = target if isinstance(target, list) else [target]
    for number in (text, *several):
        if isinstance(number, int) and not 0 <= number < len(choices):
            raise TemplateError(f"there is no choice number {number}")
    if not all(isinstance(value, str | int) for value in several):
        raise TemplateError("the answer is not one of the choices, nor its number")
