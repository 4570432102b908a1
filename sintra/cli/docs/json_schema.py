"""Write typed dictionaries as a JSON Schema (draft 2020-12)."""

from __future__ import annotations

import inspect
import types
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from sintra.study.json_types import ResultJson
from sintra.study.result_upgrade import RESULT_SCHEMA

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def result_schema() -> dict[str, Any]:
    """Return the schema of result.json."""
    definitions: dict[str, dict[str, Any]] = {}
    top = schema_of(ResultJson, definitions)
    definitions["ResultJson"]["properties"]["schema"] = {"const": RESULT_SCHEMA}
    return {"$schema": DIALECT, "title": "Sintra's result.json", **top, "$defs": definitions}


def schema_of(kind: Any, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a type; typed dictionaries go into the definitions.

    Raises TypeError for a type that JSON doesn't have.
    """
    if kind in PLAIN:
        return PLAIN[kind]
    if is_typeddict(kind):
        return define(kind, definitions)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (NotRequired, Required):
        return schema_of(arguments[0], definitions)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(each, definitions) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], definitions)}
    if origin is tuple and Ellipsis not in arguments:
        items = [schema_of(each, definitions) for each in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if origin in (list, tuple):
        return {"type": "array", "items": schema_of(arguments[0], definitions)}
    raise TypeError(f"{kind} has no JSON")


def define(kind: Any, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a reference to a typed dictionary's definition, which is added if it is new."""
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # it may hold itself
        hints = get_type_hints(kind, include_extras=True)
        definitions[name] |= {
            "type": "object",
            "description": " ".join((inspect.getdoc(kind) or "").split()),
            "properties": {k: schema_of(hint, definitions) for k, hint in hints.items()},
            "required": [k for k, hint in hints.items() if is_required(kind, hint)],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def is_required(kind: Any, hint: Any) -> bool:
    """Return whether a field of a typed dictionary is always there.

    `__required_keys__` can't be asked: it is wrong where annotations are texts.
    """
    return get_origin(hint) is not NotRequired if kind.__total__ else get_origin(hint) is Required
