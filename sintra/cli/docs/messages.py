"""Every message with which Sintra can end or give up a step, read out of its own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("UserError", "Infeasible", "Transient")


@dataclass(frozen=True)
class Message:
    """kind: the exception; text: with `{...}` where something is filled in; module: where it is
    raised.
    """

    kind: str
    text: str
    module: str


def messages(package: Path) -> list[Message]:
    """Those of a package's folder, sorted; a message that is built elsewhere (handed on from a
    worker) isn't listed twice.
    """
    found = {m for path in sorted(package.rglob("*.py")) for m in _of(path, package)}
    return sorted(found, key=lambda m: (KINDS.index(m.kind), m.module, m.text))


def _of(path: Path, package: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in KINDS
            and node.args
        ):
            text = words(node.args[-1])
            if any(c.isalpha() for c in text.replace("{...}", "")):
                yield Message(node.func.id, text, module)


def words(node: ast.expr) -> str:
    """A string expression as a template: what is filled in becomes its name in braces, or `{...}`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _place(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left) + words(node.right)
    return "{...}"


def _place(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return "{" + node.id + "}"
    if isinstance(node, ast.Attribute):
        return "{" + node.attr + "}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "nearest":
        return "did you mean {the nearest}?"
    return "{...}"
