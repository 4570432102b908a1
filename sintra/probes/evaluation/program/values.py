"""Write Python values as JSON, so that two processes which do not trust each other exchange them.

Plain values go by value: numbers, text, bytes, containers, and the value types of the standard
library (a Counter arrives as a dict). Everything else stays where it is and is referred to; what a
reference means is the caller's, by `refer` and `resolve`. Standard library only.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

SCALARS = (type(None), bool, str, float)
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
MAPPINGS = (dict, Counter, OrderedDict, defaultdict)
TEXTS: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "time": time.fromisoformat,
    "Decimal": Decimal,
    "Fraction": Fraction,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
}
SMALL = 1 << 53  # whole numbers below it are written in digits; Python limits how many it reads


def to_json(value: Any, refer: Callable[[Any], list[Any]]) -> Any:
    """Return a value as JSON; refer: the reference to what does not go by value."""
    kind = type(value)
    if kind in SCALARS or (kind is int and -SMALL < value < SMALL):
        return value
    if kind is int:
        return ["int", hex(value)]
    if kind in MAPPINGS:
        pairs = [[to_json(k, refer), to_json(v, refer)] for k, v in value.items()]
        return ["dict", pairs]
    if kind.__name__ in CONTAINERS and kind is CONTAINERS[kind.__name__]:
        return [kind.__name__, [to_json(v, refer) for v in value]]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["tuple", [to_json(v, refer) for v in tuple.__iter__(value)]]
    return _special(value, kind) or refer(value)


def _special(value: Any, kind: type) -> list[Any] | None:
    """Return a value of the standard library's own types as JSON, or None for another."""
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind is range:
        return ["range", value.start, value.stop, value.step]
    if kind is timedelta:
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if kind in (date, datetime, time):
        return [kind.__name__, value.isoformat()]
    return [kind.__name__, str(value)] if kind in (Decimal, Fraction) else None


def from_json(data: Any, resolve: Callable[[list[Any]], Any]) -> Any:
    """Return the value that JSON stands for; resolve: what a reference refers to.

    Raises ValueError, TypeError and LookupError for anything that `to_json` does not write.
    """
    if not isinstance(data, list):
        return data
    tag, *rest = data
    if tag == "int":
        return int(rest[0], 16)
    if tag == "dict":
        return {from_json(k, resolve): from_json(v, resolve) for k, v in rest[0]}
    if tag in CONTAINERS:
        return CONTAINERS[tag]([from_json(v, resolve) for v in rest[0]])
    if tag in TEXTS:
        return TEXTS[tag](rest[0])
    if tag == "complex":
        return complex(*rest)
    if tag == "range":
        return range(*rest)
    return timedelta(*rest) if tag == "timedelta" else resolve(data)
