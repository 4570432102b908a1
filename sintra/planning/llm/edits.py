"""What a language model may say: a short list of structured edits, or that it is enough. Parsed,
checked, applied by code.

An edit never names a recipe, a file or a command: it pins, forbids or allows a tensor type for a
class of tensors in a range of blocks, names a KV-cache type, turns the importance matrix on or off,
or leaves a block out. What the types, classes and blocks are is ours; anything else is refused with
the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sintra.formats.gguf.sizes import Matrix
from sintra.planning.solver.problem import Problem

ACTIONS = ("pin", "forbid", "allow", "kv", "importance", "drop")
TYPED = ("pin", "forbid", "allow")
CACHES = ("f16", "q8_0", "q4_0")
SWITCHES = ("on", "off")
MOST, REASON = 8, 240


@dataclass(frozen=True)
class Edit:
    """One edit. tensors: a class of tensors or "all"; first, last: blocks; value: a type, a cache
    type, on or off.
    """

    action: str
    tensors: str
    first: int
    last: int
    value: str
    reason: str
    confidence: float


@dataclass(frozen=True)
class Scope:
    """What edits can name."""

    matrices: tuple[Matrix, ...]
    types: tuple[str, ...]
    layers: int

    @property
    def kinds(self) -> list[str]:
        """Classes of tensors."""
        return sorted({m.kind for m in self.matrices})


def schema(scope: Scope) -> dict[str, Any]:
    """The JSON schema of an answer: closed lists wherever there is one."""
    text = {"type": "string", "maxLength": REASON}
    block = {
        "type": "integer",
        "enum": list(range(scope.layers)),
    }  # some servers' grammars ignore bounds
    fields = {
        "action": {"type": "string", "enum": list(ACTIONS)},
        "tensors": {"type": "string", "enum": ["all", *scope.kinds]},
        "first": block,
        "last": block,
        "value": {"type": "string", "enum": [*scope.types, *CACHES, *SWITCHES]},
        "reason": text,
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    edit = {
        "type": "object",
        "additionalProperties": False,
        "required": list(fields),
        "properties": fields,
    }
    edits = {"type": "array", "maxItems": MOST, "items": edit}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["edits", "stop"],
        "properties": {"edits": edits, "stop": text},
    }


def parse(data: dict[str, Any], scope: Scope) -> tuple[list[Edit], list[str], str]:
    """The edits that make sense, why others don't, and why to stop ("": go on)."""
    good, bad = [], []
    for row in data["edits"][:MOST]:
        edit = Edit(**{k: row[k] for k in Edit.__dataclass_fields__})
        trouble = wrong(edit, scope)
        if trouble:
            bad.append(f"{edit.action} {edit.tensors} {edit.value}: {trouble}")
        else:
            good.append(edit)
    return good, bad, str(data["stop"]).strip()


def wrong(edit: Edit, scope: Scope) -> str:
    """Why an edit means nothing here; "" where it does."""
    wanted: Sequence[str] = {"kv": CACHES, "importance": SWITCHES}.get(edit.action, scope.types)
    if edit.action != "drop" and edit.value not in wanted:
        return f"its value must be one of {', '.join(wanted)}"
    if edit.first > edit.last:
        return "first lies behind last"
    if edit.action == "drop" and (edit.first != edit.last or not 0 < edit.first < scope.layers - 1):
        return "one inner block can be dropped at a time"
    if edit.action in TYPED and not chosen(edit, scope.matrices):
        return "there is no such tensor in these blocks"
    return ""


def chosen(edit: Edit, matrices: Sequence[Matrix]) -> list[int]:
    """The numbers of the matrices that an edit is about; those outside the blocks only by their own
    name.
    """
    inside = [m.block is not None and edit.first <= m.block <= edit.last for m in matrices]
    return [
        i
        for i, m in enumerate(matrices)
        if (edit.tensors == m.kind and (m.block is None or inside[i]))
        or (edit.tensors == "all" and inside[i])
    ]


def applied(
    edits: Sequence[Edit], problem: Problem, matrices: Sequence[Matrix]
) -> tuple[Problem, list[str]]:
    """The problem under the edits, in their order; an edit that would leave a tensor without any
    type is left out, and named with the reason.
    """
    table, bad = problem.table, []
    for edit in (e for e in edits if e.action in TYPED):
        rows, column = chosen(edit, matrices), table.types.index(edit.value)
        allowed = table.allowed.copy()
        if edit.action == "pin":
            allowed[rows] = False
        allowed[rows, column] = edit.action != "forbid"
        if allowed.any(1).all():
            table = replace(table, allowed=allowed)
        else:
            bad.append(
                f"{edit.action} {edit.tensors} {edit.value}: some tensor would be left without a "
                "type"
            )
    return replace(problem, table=table), bad


def switches(edits: Sequence[Edit]) -> tuple[str, bool, tuple[int, ...]]:
    """KV-cache type, importance matrix and dropped blocks, by the last edit on each."""
    kv = next((e.value for e in reversed(edits) if e.action == "kv"), "f16")
    matrix = next((e.value for e in reversed(edits) if e.action == "importance"), "on")
    drop = next(((e.first,) for e in reversed(edits) if e.action == "drop"), ())
    return kv, matrix == "on", drop
