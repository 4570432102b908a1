"""One way to write a value down, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
)


def canonical(value: Any) -> str:
    """JSON in one way only: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


def sha256(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


HEAD = b'{"sum": "'


END = len(HEAD) + 64


def sealed(text: str) -> str:
    """A JSON object's text with its sum in front. Raises ValueError for anything but an object with
    members.
    """
    if not text.startswith("{") or text[1:].lstrip().startswith("}"):
        raise ValueError("only a JSON object with members can be sealed")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"sum": "{digest}", {text[1:]}'


def unsealed(raw: bytes) -> dict[str, Any] | None:
    """The object without its sum; None where the bytes are no JSON object or not those that were
    written.
    """
    body = raw
    if raw.startswith(HEAD):
        body = b"{" + raw[END + 3 :]
        if (
            raw[END : END + 3] != b'", '
            or hashlib.sha256(body).hexdigest().encode() != raw[len(HEAD) : END]
        ):
            return None
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
