"""Check composed options, once: texts, names that become paths, closed lists, ranges of numbers.

A message names where the value stands: on the command line, or a file and its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config.options import HardwareConf, from_json
from sintra.config.profile_file import device_text_faults, printable
from sintra.config.quoting import check_interpolation
from sintra.config.ranges import device_faults, range_faults
from sintra.config.slugs import LONGEST_TEXT, LONGEST_TITLE, check_line, check_name
from sintra.core.errors import UserError, nearest

VERSION = 1  # of these checks: options that were composed before them are composed again
NAMES = ("model.name", "hardware.name", "goal.name")  # parts of a study's name, which is a folder
TITLES = {"hardware.title": LONGEST_TITLE, "hardware.isa": LONGEST_TITLE}
CHOICES = {  # others are checked where they are used
    "model.convert": ("f16", "bf16", "f32"),
    "model.balance": ("auto", "always", "never"),
    "planner.sensitivity": ("auto", "gradient", "probes"),
}


@dataclass(frozen=True)
class Origins:
    """Where composed options come from."""

    root: Path  # the project's folder
    raw: tuple[str, ...]  # the command line's overrides
    files: Mapping[str, Path]  # group -> the file that was chosen; "": conf/config.yaml

    def where(self, key: str, value: object) -> str:
        """Return how a message names a value: as it was typed, else by file and key."""
        for override in self.raw:
            typed = override.partition("=")[0]
            if key == typed or (key.startswith(f"{typed}.") and typed not in self.files):
                return printable(override)
        group, _, rest = key.partition(".")
        shown = f"{value:.10g}" if isinstance(value, float) else printable(str(value))
        for file, inner in ((self.files.get(group), rest), (self.files.get(""), key)):
            if file is not None and inner and is_set(file, inner):
                return f"{self.name_of(file)}: {inner}: {shown}"
        return f"{key}={shown}"

    def name_of(self, file: Path) -> str:
        """Return a file's path in the project; its name where it lies elsewhere."""
        inside = file.is_relative_to(self.root / "conf")
        return file.relative_to(self.root).as_posix() if inside else file.name


def is_set(file: Path, key: str) -> bool:
    """Return whether a YAML file has a dotted key; False for a file that can't be read."""
    import yaml  # not on the no-op path

    try:
        node: Any = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def check_references(values: Mapping[str, Any], origins: Origins) -> None:
    """Raise UserError for an interpolation that is more than a reference to another option.

    values: composed options, not resolved yet.
    """
    for key, text in texts_in(values):
        if "${" in text:
            check_interpolation(origins.where(key, text), text)


def check_values(values: Mapping[str, Any], origins: Origins) -> None:
    """Raise UserError for the first composed option that can't be.

    values: all options, or the group `hardware` alone.
    """
    for key, text in texts_in(values):
        check_line(origins.where(key, text), text, TITLES.get(key, LONGEST_TEXT))
    for key in NAMES:
        if name := value_at(values, key):
            check_name(origins.where(key, name), name)
    for key, fault in faults_of(values):
        raise UserError(f"{origins.where(key, value_at(values, key))} {fault}")


def faults_of(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, what is wrong) of options outside their closed list or range."""
    device = from_json(HardwareConf, values["hardware"])
    yield from device_text_faults(device)
    for key, choices in CHOICES.items():
        value = value_at(values, key)
        if value is not None and value not in choices:
            yield key, f"isn't known: {nearest(str(value), choices)}"
    yield from range_faults(values)
    yield from device_faults(device)


def texts_in(node: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) of every text in options, names in mappings included."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner, str(name)
            yield from texts_in(value, inner)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from texts_in(value, key)


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; None where there is none."""
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
