"""Read a device profile's YAML: plain values of known keys, each mistake a line with file and key.

Profiles are made to be shared, so nothing in one is more than a value: no interpolation, no tag, no
`defaults`, no package of Hydra's. Texts are taken as written (a title of 1.10 stays "1.10"),
numbers must look like numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.config import ranges
from sintra.config.options import HardwareConf
from sintra.config.slugs import LONGEST_TITLE, slug
from sintra.core.errors import UserError, nearest

if TYPE_CHECKING:
    import yaml

Values = dict[str, Any]  # key of HardwareConf -> value of its type
KINDS = {option.name: str(option.type) for option in fields(HardwareConf)}
LARGEST = 1 << 16  # bytes of a profile
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
OCTAL = re.compile(r"[-+]?0\d+")
WITH_UNIT = re.compile(r"(?P<number>[-+]?\d+([.,]\d+)?)\s*(?P<unit>[A-Za-zµ/%²³]*)")
TAGS = {f"tag:yaml.org,2002:{tag}" for tag in ("str", "int", "float", "bool", "null", "timestamp")}
BACKENDS = ("cpu", "cuda", "metal", "opencl", "vulkan")


def read_profile_file(path: Path) -> Values:
    """Return a profile's values, with a name and title by the file's where it has none.

    Raises UserError in one line with the file, the key and the value.
    """
    values = dict(profile_items(path.name, profile_node(path)))
    name = slug(path.stem)
    title = path.stem if path.stem.isprintable() else name
    return {"name": name, "title": title[:LONGEST_TITLE]} | values


def profile_node(path: Path) -> yaml.MappingNode:
    """Return a profile's YAML as nodes. Raises UserError where it isn't a mapping."""
    import yaml  # not on the no-op path

    text = profile_text(path)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        if mark and any("\t" in row for row in text.splitlines()[mark.line : mark.line + 1]):
            reason = "YAML is indented by spaces, not by tabs"
        raise UserError(f"{path.name}{line} can't be read: {printable(reason)}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(
            f"{path.name} is not a profile: expected a mapping such as conf/hardware/laptop.yaml"
        )
    return node


def profile_text(path: Path) -> str:
    """Return a profile's text; a byte order mark is taken off. Raises UserError."""
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    except OSError as error:
        raise UserError(f"{path.name} can't be read: {error.strerror}") from None
    if not data.strip():
        raise UserError(
            f"{path.name} is empty or too large to be a profile: expected a mapping such as "
            "conf/hardware/laptop.yaml"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path.name}, line {line} isn't UTF-8: save it as UTF-8") from None
    if re.search(r"^\s*#\s*@package", text, re.MULTILINE):
        raise UserError(f"{path.name}: `# @package` isn't taken in a profile: remove the line")
    return text


def profile_items(file: str, node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a profile's mapping. Raises UserError.

    file: its name, for messages.
    """
    seen = set()
    for key_node, value_node in node.value:
        key = scalar(file, key_node)
        if key not in KINDS:
            known = nearest(key, KINDS)
            raise UserError(f"{file}: a profile has no {printable(key)!r}: {known}")
        if key in seen:
            raise UserError(f"{file}: {key} is given twice: remove one of them")
        seen.add(key)
        yield key, value_of(f"{file}: {key}", KINDS[key], value_node)


def value_of(where: str, kind: str, node: yaml.Node) -> Any:
    """Return a node's value as an option's type. Raises UserError.

    where: file and key; kind: the option's annotation in HardwareConf.
    """
    if kind.startswith("dict"):
        return mapping_of(where, node)
    if kind.startswith("tuple"):
        return list_of(where, node)
    text = scalar(where, node)
    if kind == "str":
        return text
    if kind.endswith("None") and is_null(node):
        return None
    return number_of(where, text, kind == "int")


def mapping_of(where: str, node: yaml.Node) -> dict[str, float]:
    """Return a mapping of numbers. Raises UserError."""
    import yaml  # not on the no-op path

    if is_null(node):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where} isn't a mapping of names to numbers: write {{name: 1.5}}")
    result: dict[str, float] = {}
    for key_node, value_node in node.value:
        key = scalar(where, key_node)
        if key in result:
            raise UserError(f"{where}.{key} is given twice: remove one of them")
        result[key] = number_of(f"{where}.{key}", scalar(f"{where}.{key}", value_node), False)
    return result


def list_of(where: str, node: yaml.Node) -> list[str]:
    """Return a list of texts. Raises UserError."""
    import yaml  # not on the no-op path

    if not isinstance(node, yaml.SequenceNode):
        example = printable(str(node.value)) if isinstance(node, yaml.ScalarNode) else "llama.cpp"
        raise UserError(f"{where} isn't a list: write [{example}]")
    return [scalar(where, item) for item in node.value]


def scalar(where: str, node: yaml.Node) -> str:
    """Return a scalar's text as it is written. Raises UserError for anything else."""
    import yaml  # not on the no-op path

    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where} is a list or a mapping: write a single value")
    text = str(node.value)
    if "${" in text:
        raise UserError(f"{where}: {printable(text)}: a profile holds plain values, without `${{`")
    if node.tag not in TAGS:
        raise UserError(f"{where}: the tag {printable(node.tag)} isn't taken: write a plain value")
    return text


def is_null(node: yaml.Node) -> bool:
    """Return whether nothing stands there: an empty value, `null` or `~`."""
    return bool(node.tag == "tag:yaml.org,2002:null")


def number_of(where: str, text: str, whole: bool) -> int | float:
    """Return the number that a text is. Raises UserError, with what was probably meant.

    whole: whether it must be a whole number.
    """
    plain = text.strip()
    if plain.lstrip("+-").lower() in (".inf", ".nan", "inf", "nan"):
        raise UserError(f"{where}: {plain} isn't a finite number")
    if OCTAL.fullmatch(plain):
        raise UserError(
            f"{where}: {plain} would be octal in YAML: write {plain.lstrip('+-0') or '0'}"
        )
    if not NUMBER.fullmatch(plain):
        raise UserError(
            f"{where}: {printable(plain) or 'nothing'} isn't a number{meant(where, plain)}"
        )
    number = float(plain)
    if not whole:
        return number
    if not number.is_integer() or "." in plain:
        raise UserError(f"{where}: {plain} isn't a whole number")
    return int(number)


def meant(where: str, text: str) -> str:
    """Return what to write for a number with a unit or a decimal comma, as the end of a line."""
    match = WITH_UNIT.fullmatch(text)
    allowed = ranges.range_of(f"hardware.{where.rpartition(' ')[2]}")
    if not match or not allowed:
        return ""
    unit, right = match["unit"].lower().replace("i", ""), allowed.unit.lower().replace("i", "")
    if unit and unit != right:
        return f": write the number alone, in {allowed.unit}"
    return f": write {match['number'].replace(',', '.')}"


def printable(text: str) -> str:
    """Return at most 60 characters of a text, those that can't be printed escaped."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return short if short.isprintable() else ascii(short)[1:-1]


def device_text_faults(device: HardwareConf) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, what is wrong) of a device's texts and names."""
    if device.backend not in BACKENDS:
        close = "did you mean 'cuda'?" if device.backend.lower() in ("nvidia", "gpu") else ""
        yield "hardware.backend", f"isn't known: {close or nearest(device.backend, BACKENDS)}"
    for key in device.thermal:
        if key not in ranges.THERMAL:
            yield f"hardware.thermal.{key}", f"isn't known: {nearest(key, ranges.THERMAL)}"
