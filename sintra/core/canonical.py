"""One way to write a value down, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
)
_SEAL_HEAD = b'{"sum": "'  # what a sealed object begins with
_SEAL_END = len(_SEAL_HEAD) + 64  # where its digest of 64 hex digits ends
_SEAL_TAIL = b'", '  # what stands between the digest and the first member


def canonical(value: object) -> str:
    """Write a value as JSON in one way only: sorted keys, no spaces. Raises ValueError for NaN."""
    return _ENCODER.encode(value)


def sha256(text: str) -> str:
    """Return the hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(text: str) -> str:
    """Return the text of a JSON object with its SHA-256 as first member.

    Raises ValueError for anything but an object with members.
    """
    if not text.startswith("{") or text[1:].lstrip().startswith("}"):
        raise ValueError("only a JSON object with members can be sealed")
    return f'{{"sum": "{sha256(text)}", {text[1:]}'


def unsealed(raw: bytes, required: bool = False) -> dict[str, Any] | None:
    """Return the object without its digest; one that was never sealed is taken as it is.

    required: whether a digest must be there. None where the bytes are not a JSON object, or not
    those that were written.
    """
    body = raw
    if required and not raw.startswith(_SEAL_HEAD):
        return None
    if raw.startswith(_SEAL_HEAD):
        first = _SEAL_END + len(_SEAL_TAIL)
        body = b"{" + raw[first:]
        digest = hashlib.sha256(body).hexdigest().encode()
        if raw[_SEAL_END:first] != _SEAL_TAIL or digest != raw[len(_SEAL_HEAD) : _SEAL_END]:
            return None
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
