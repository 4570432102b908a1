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

from sintra.core.kv_cache import KV_TYPES
from sintra.formats.gguf.sizes import Matrix
from sintra.planning.solver.problem import Problem
from sintra.planning.state import JsonObject

ACTIONS = ("pin", "forbid", "allow", "kv", "importance", "drop")
TYPE_ACTIONS = ("pin", "forbid", "allow")  # those whose value is a tensor type
CACHES = tuple(KV_TYPES)
SWITCHES = ("on", "off")
MAX_EDITS = 8
MAX_REASON = 240  # characters


@dataclass(frozen=True)
class Edit:
    """One change of what the solver may choose from."""

    action: str  # one of ACTIONS
    tensors: str  # a class of tensors, or "all"
    first: int  # number of the first block
    last: int  # number of the last block
    value: str  # a tensor type, a cache type, "on" or "off"
    reason: str  # one sentence
    confidence: float  # from 0 to 1

    @property
    def title(self) -> str:
        """Return the edit in three words, for the reason why it was refused."""
        return f"{self.action} {self.tensors} {self.value}"


@dataclass(frozen=True)
class Scope:
    """What edits can name."""

    matrices: tuple[Matrix, ...]
    types: tuple[str, ...]  # tensor types that the solver chooses from
    layers: int  # number of blocks

    @property
    def kinds(self) -> list[str]:
        """Return the classes of tensors, sorted."""
        return sorted({m.kind for m in self.matrices})


def schema(scope: Scope) -> JsonObject:
    """Return the JSON schema of a reply: closed lists wherever there is one."""
    text = {"type": "string", "maxLength": MAX_REASON}
    # A list of the blocks, since some servers' grammars ignore bounds.
    block = {"type": "integer", "enum": list(range(scope.layers))}
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
    edits = {"type": "array", "maxItems": MAX_EDITS, "items": edit}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["edits", "stop"],
        "properties": {"edits": edits, "stop": text},
    }


def parse_reply(reply: JsonObject, scope: Scope) -> tuple[list[Edit], list[str], str]:
    """Return the edits that make sense, why others don't, and why to stop ("": go on).

    reply: holds the schema.
    """
    edits, refusals = [], []
    for row in reply["edits"][:MAX_EDITS]:
        edit = Edit(**{name: row[name] for name in Edit.__dataclass_fields__})
        if reason := refusal_reason(edit, scope):
            refusals.append(f"{edit.title}: {reason}")
        else:
            edits.append(edit)
    return edits, refusals, str(reply["stop"]).strip()


def refusal_reason(edit: Edit, scope: Scope) -> str:
    """Say why an edit means nothing here; "" where it makes sense."""
    values: Sequence[str] = {"kv": CACHES, "importance": SWITCHES}.get(edit.action, scope.types)
    if edit.action != "drop" and edit.value not in values:
        return f"its value must be one of {', '.join(values)}"
    if edit.first > edit.last:
        return "first lies behind last"
    if edit.action == "drop" and (edit.first != edit.last or not 0 < edit.first < scope.layers - 1):
        return "one inner block can be dropped at a time"
    if edit.action in TYPE_ACTIONS and not edited_rows(edit, scope.matrices):
        return "there is no such tensor in these blocks"
    return ""


def edited_rows(edit: Edit, matrices: Sequence[Matrix]) -> list[int]:
    """Return the numbers of the matrices that an edit is about.

    Those outside the blocks only by their own name.
    """
    inside = [m.block is not None and edit.first <= m.block <= edit.last for m in matrices]
    return [
        i
        for i, m in enumerate(matrices)
        if (edit.tensors == m.kind and (m.block is None or inside[i]))
        or (edit.tensors == "all" and inside[i])
    ]


def apply_edits(
    edits: Sequence[Edit], problem: Problem, matrices: Sequence[Matrix]
) -> tuple[Problem, list[str]]:
    """Return the problem under the edits, in their order, and why some were left out.

    An edit that would leave a tensor without any type is left out.
    """
    table, refusals = problem.table, []
    for edit in (e for e in edits if e.action in TYPE_ACTIONS):
        rows, column = edited_rows(edit, matrices), table.types.index(edit.value)
        allowed = table.allowed.copy()
        if edit.action == "pin":
            allowed[rows] = False
        allowed[rows, column] = edit.action != "forbid"
        if allowed.any(1).all():
            table = replace(table, allowed=allowed)
        else:
            refusals.append(f"{edit.title}: some tensor would be left without a type")
    return replace(problem, table=table), refusals


def last_switches(edits: Sequence[Edit]) -> tuple[str, bool, tuple[int, ...]]:
    """Return KV-cache type, importance matrix and dropped blocks, by the last edit on each."""
    kv = next((e.value for e in reversed(edits) if e.action == "kv"), "f16")
    importance = next((e.value for e in reversed(edits) if e.action == "importance"), "on")
    dropped = next(((e.first,) for e in reversed(edits) if e.action == "drop"), ())
    return kv, importance == "on", dropped
