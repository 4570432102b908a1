"""Describe every option for people: type, unit, range, default, meaning, example, what it changes.

What only people can say stands in option_docs.csv, a row an option. Types come from the fields of
sintra/config/options.py, ranges from ranges.py, defaults from conf.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config import compose
from sintra.config.options import Config, HardwareConf
from sintra.config.ranges import range_of
from sintra.core.errors import UserError

TABLE = Path(__file__).with_name("option_docs.csv")
STAGE_LIMIT = f"{compose.TIMEOUT}.STAGE"  # the row that stands for the limits of all stages
CHANGES = {  # what a new value does, as the table's column `changes` says it
    "steps": "steps that use it are made again",
    "study": "another study, which reuses finished steps",
    "run": "this run only",
}
TYPES = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "tuple[str, ...]": "list",
    "tuple[int, ...]": "list of integers",
    "dict[str, float]": "mapping",
    "dict[str, str]": "mapping",
    "dict[str, float | None]": "number or null",  # an entry of limits.timeout
}


@dataclass(frozen=True)
class OptionDoc:
    """One option, as the reference page and `doit options` show it."""

    name: str  # dotted key, or a group such as `goal`
    type: str  # integer, number, text, ...
    unit: str  # "": none
    allowed: str  # range or list of values; "": whatever the type allows
    default: str  # as written on a command line
    meaning: str  # a sentence or two
    example: str  # KEY=VALUE
    changes: str  # a key of CHANGES

    @property
    def group(self) -> str:
        """Return the first part of the name; "" for an option that belongs to no group."""
        first, dot, _ = self.name.partition(".")
        return first if dot or first in compose.GROUPS else ""


def read_rows() -> dict[str, dict[str, str]]:
    """Read the rows of option_docs.csv by option."""
    with TABLE.open(newline="", encoding="utf-8") as handle:
        return {row["option"]: row for row in csv.DictReader(handle)}


def documented_names() -> list[str]:
    """Return the options that need a row: groups, and every key but the names of presets."""
    keys = set(compose.option_types()) - {compose.TIMEOUT}
    presets = {f"{group}.name" for group in compose.GROUPS} - {"model.name"}
    return [*compose.GROUPS, *sorted(keys - presets), STAGE_LIMIT]


def option_docs(root: Path) -> list[OptionDoc]:
    """Return every option, in the order of the table.

    Raises UserError for an option without a row, and for a row without its option.
    """
    rows, expected = read_rows(), set(documented_names())
    for name in sorted(expected ^ rows.keys()):
        fault = "lacks the option" if name in expected else "has a row for the unknown option"
        raise UserError(f"{TABLE.name} {fault} {name}")
    config = defaults(root)
    return [describe(root, config, row) for row in rows.values()]


@functools.cache
def defaults(root: Path) -> Config:
    """Return the options of a project's main job."""
    return compose.compose(root, [])


def describe(root: Path, config: Config, row: dict[str, str]) -> OptionDoc:
    """Return the option of a row, completed by what code and conf say of it."""
    name, values = row["option"], row["values"].split()
    key = name.replace(STAGE_LIMIT, compose.TIMEOUT)
    if is_preset := name in compose.GROUPS:
        values = sorted(compose.names(root, name) - {"custom"})
    allowed = range_of(f"{compose.TIMEOUT}.*" if name == STAGE_LIMIT else name)
    is_share = allowed is not None and allowed.noun.startswith("share")
    unit = "share" if is_share else allowed.unit if allowed else ""
    return OptionDoc(
        name=name,
        type="preset" if is_preset else type_words(compose.option_types()[key]),
        unit=unit,
        allowed=", ".join(values) or (allowed.interval() if allowed else ""),
        default=default_of(config, name),
        meaning=row["meaning"],
        example=row["example"],
        changes=row["changes"],
    )


def type_words(annotation: str) -> str:
    """Return the type of a field in words, `int | None` as `integer or null`."""
    if annotation in TYPES:
        return TYPES[annotation]
    return f"{TYPES[annotation.removesuffix(' | None')]} or null"


def default_of(config: Config, name: str) -> str:
    """Return an option's default as it is written on a command line.

    That of a device's number is what a profile has that leaves it out.
    """
    if name == STAGE_LIMIT:
        return "null"
    if name in compose.GROUPS:
        return str(getattr(config, name).name)
    if name.startswith("hardware."):
        return format_value(value_at(HardwareConf(), name.removeprefix("hardware.")))
    return format_value(value_at(config, name))


def value_at(node: Any, key: str) -> object:
    """Return the value of a dotted key; None for an entry that a mapping doesn't have."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else getattr(node, part)
    return node


def format_value(value: object) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return "null" if value is None else str(value) or "''"


def matching(docs: Iterable[OptionDoc], words: Iterable[str]) -> list[OptionDoc]:
    """Return the options whose name or meaning holds every word, whatever its case."""
    wanted = [word.casefold() for word in words]
    return [d for d in docs if all(w in f"{d.name} {d.meaning}".casefold() for w in wanted)]
