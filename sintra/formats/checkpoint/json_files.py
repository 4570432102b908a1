"""Read the JSON files of a model folder: one reader, which takes a byte order mark.

transformers and llama.cpp's converter refuse one, so that a model's copy in the store has none.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError

BOM = codecs.BOM_UTF8


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object. Raises UserError."""
    try:
        data = json.loads(content(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object")
    return data


def content(path: Path) -> bytes:
    """Return a file's bytes without a byte order mark."""
    return path.read_bytes().removeprefix(BOM)


def has_mark(path: Path) -> bool:
    """Return whether a file is JSON that begins with a byte order mark."""
    if path.suffix != ".json":
        return False
    with path.open("rb") as handle:
        return handle.read(len(BOM)) == BOM


def copy_without_mark(source: Path, target: Path) -> None:
    """Copy a JSON file without its byte order mark."""
    target.write_bytes(content(source))
