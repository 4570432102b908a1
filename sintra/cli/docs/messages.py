"""Every message with which Sintra can end or give up a step, read from its own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("UserError", "Infeasible", "Transient")


@dataclass(frozen=True)
class Message:
    """The message of an exception."""

    kind: str  # the exception's class
    text: str  # with `{...}` where something is filled in
    module: str  # where it is raised


def read_messages(package: Path) -> list[Message]:
    """Return the messages of a package's folder, sorted.

    A message that is built elsewhere (handed on from a worker) isn't listed twice.
    """
    distinct = {
        m for path in sorted(package.rglob("*.py")) for m in _module_messages(path, package)
    }
    return sorted(distinct, key=lambda m: (KINDS.index(m.kind), m.module, m.text))


def _module_messages(path: Path, package: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in KINDS
            and node.args
        ):
            text = template(node.args[-1])
            if any(c.isalpha() for c in text.replace("{...}", "")):
                yield Message(node.func.id, text, module)


def template(node: ast.expr) -> str:
    """Return a string expression as a template.

    What is filled in becomes its name in braces, or `{...}`.
    """
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _placeholder(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return "{...}"


def _placeholder(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return "{" + node.id + "}"
    if isinstance(node, ast.Attribute):
        return "{" + node.attr + "}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "nearest":
        return "did you mean {the nearest}?"
    return "{...}"
