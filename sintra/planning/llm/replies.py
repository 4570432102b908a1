"""Replies: read as JSON, held against the schema, and kept by the digest of what was asked, so that
a rerun costs nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from sintra.core.canonical import canonical, sha256
from sintra.core.lazy import module
from sintra.planning.llm.budget import bare

LARGEST = 64 * 1024
SHOWN, QUOTED = 200, 2000


def digest(base_url: str, model: str, system: str, user: str, schema: dict[str, Any]) -> str:
    """The key of a reply: what was asked of whom, without credentials."""
    return sha256(canonical([bare(base_url), model, system, user, schema]))


def read(text: str, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The reply as a value that holds the schema, or None and why not."""
    size = len(text.encode(errors="replace"))
    if size > LARGEST:
        return None, f"{size} bytes, {LARGEST} at most"
    if not text.strip():
        return None, "nothing was said"
    data = parsed(text)
    if data is None:
        return None, "not a JSON object"
    wrong = violation(data, schema)
    return (None, wrong) if wrong else (data, "")


def parsed(text: str) -> dict[str, Any] | None:
    """The JSON object in a reply: bare, in a fenced block, or among words and thoughts."""
    spoken = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    for candidate in (spoken, spoken[spoken.find("{") : spoken.rfind("}") + 1]):
        try:
            data = json.loads(
                candidate, strict=False
            )  # llama_cpp.server's grammar lets line breaks into strings
            canonical(
                data
            ).encode()  # no NaN, no infinity, no lone surrogate: what could not be written again
        except (ValueError, RecursionError):
            continue
        return data if isinstance(data, dict) else None
    return None


def correction(text: str, wrong: str, schema: dict[str, Any]) -> list[dict[str, str]]:
    """What was said, and what is wrong with it; for servers that ignore a form, the schema in
    words.
    """
    again = (
        f"That reply can't be used: {wrong}. Answer with one JSON object that follows this "
        "schema, nothing else:"
    )
    return [
        {"role": "assistant", "content": text[:QUOTED] or "-"},
        {"role": "user", "content": f"{again}\n{canonical(schema)}"},
    ]


def violation(data: Any, schema: dict[str, Any]) -> str:
    """What in the data breaks the schema, in one line; "" where nothing does."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(data))
    return "" if error is None else f"{error.json_path}: {error.message[:SHOWN]}"


def recall(folder: Path, key: str, schema: dict[str, Any]) -> dict[str, Any] | None:
    """The reply kept under a key; None where there is none, or none that may be trusted."""
    if not folder.is_dir():
        return None
    try:
        with closing(opened(folder)) as kept:
            data = kept.get(key)
    except Exception:  # a damaged or planted row or database of any kind is a miss
        return None
    return data if isinstance(data, dict) and not violation(data, schema) else None


def keep(folder: Path, key: str, data: dict[str, Any]) -> bool:
    """Keep a valid reply; whether that worked. It is paid for: nothing about the cache may lose it."""
    try:
        with closing(opened(folder)) as kept:
            kept.set(key, data)
    except Exception:  # full disk, damaged database, locked too long
        return False
    return True


def opened(folder: Path) -> Any:
    """The cache in a folder that is the user's alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    # Values stay inside the database, whatever its own settings table says: no row of ours names a
    # file.
    settings = {"eviction_policy": "none", "disk_min_file_size": 1 << 30}
    return module("diskcache").Cache(str(folder), timeout=10, disk=json_disk(), **settings)


@cache
def json_disk() -> Any:
    """diskcache's JSONDisk without its ways to pickle and to other files.

    CVE-2025-69872: JSONDisk hands a row with the pickle mode to pickle.load before it looks for
    JSON. Here a row is JSON inside the database or an error; nor can a row make diskcache delete
    the file it names.
    """
    diskcache = module("diskcache")
    base: Any = diskcache.JSONDisk

    class OnlyJson(base):  # type: ignore[misc]
        """Rows that are JSON inside the database, and nothing else."""

        def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
            """The value of a row. Raises ValueError for one that is a pickle or lies in a file."""
            if mode != diskcache.core.MODE_RAW or filename is not None or read:
                raise ValueError(f"a row of mode {mode} is not ours")
            return super().fetch(mode, None, value, read)

        def get(self, key: Any, raw: int) -> Any:
            """The key of a row. Raises ValueError for one that is a pickle."""
            if not raw:
                raise ValueError("a pickled key is not ours")
            return super().get(key, raw)

        def remove(self, file_path: str) -> None:
            """No row of ours has a file."""

    return OnlyJson
