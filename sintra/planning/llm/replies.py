"""Replies: read as JSON, held against the schema, and kept by the digest of what was asked, so that
a rerun costs nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from sintra.core.canonical import canonical, sha256
from sintra.core.lazy import module
from sintra.planning.llm.budget import bare_url
from sintra.planning.state import JsonObject

MAX_BYTES = 64 * 1024  # of a reply
MAX_REASON = 200  # characters of why a reply breaks the schema
MAX_QUOTE = 2000  # characters of a reply that the model is shown again


class Message(TypedDict):
    """One message of a chat."""

    role: str  # "system", "user" or "assistant"
    content: str


def reply_key(base_url: str, model: str, system: str, user: str, schema: JsonObject) -> str:
    """Return the key of a reply: the digest of what was asked of whom, without credentials."""
    return sha256(canonical([bare_url(base_url), model, system, user, schema]))


def read_reply(text: str, schema: JsonObject) -> tuple[JsonObject | None, str]:
    """Return the reply as a value that holds the schema, or None and why not."""
    size = len(text.encode(errors="replace"))
    if size > MAX_BYTES:
        return None, f"{size} bytes, {MAX_BYTES} at most"
    if not text.strip():
        return None, "nothing was said"
    data = parse_json(text)
    if data is None:
        return None, "not a JSON object"
    reason = schema_violation(data, schema)
    return (None, reason) if reason else (data, "")


def parse_json(text: str) -> JsonObject | None:
    """Return the JSON object in a reply: bare, in a fenced block, or among words and thoughts."""
    answer = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    for candidate in (answer, answer[answer.find("{") : answer.rfind("}") + 1]):
        try:
            # Not strict: llama_cpp.server's grammar lets line breaks into strings.
            data = json.loads(candidate, strict=False)
            # No NaN, no infinity, no lone surrogate: what could not be written again.
            canonical(data).encode()
        except (ValueError, RecursionError):
            continue
        return data if isinstance(data, dict) else None
    return None


def correction_messages(text: str, reason: str, schema: JsonObject) -> list[Message]:
    """Return the messages that quote a reply and say what is wrong with it.

    With the schema in words, for servers that ignore the form that was asked for.
    """
    request = (
        f"That reply can't be used: {reason}. Answer with one JSON object that follows this "
        "schema, nothing else:"
    )
    return [
        {"role": "assistant", "content": text[:MAX_QUOTE] or "-"},
        {"role": "user", "content": f"{request}\n{canonical(schema)}"},
    ]


def schema_violation(data: object, schema: JsonObject) -> str:
    """Say in one line what in the data breaks the schema; "" where nothing does."""
    from jsonschema import Draft202012Validator  # not on the no-op path
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(data))
    return "" if error is None else f"{error.json_path}: {error.message[:MAX_REASON]}"


def load_reply(folder: Path, key: str, schema: JsonObject) -> JsonObject | None:
    """Return the reply kept under a key; None where there is none that may be trusted."""
    if not folder.is_dir():
        return None
    try:
        with closing(open_cache(folder)) as database:
            data = database.get(key)
    except Exception:  # a damaged or planted row or database of any kind is a miss
        return None
    return data if isinstance(data, dict) and not schema_violation(data, schema) else None


def store_reply(folder: Path, key: str, data: JsonObject) -> bool:
    """Keep a valid reply and say whether that worked.

    The reply is paid for, so no fault of the cache may lose it: none is raised.
    """
    try:
        with closing(open_cache(folder)) as database:
            database.set(key, data)
    except Exception:  # full disk, damaged database, locked too long
        return False
    return True


def open_cache(folder: Path) -> Any:
    """Open the cache in a folder that is the user's alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    # Values stay inside the database, whatever its own settings table says: no row of ours names a
    # file.
    settings = {"eviction_policy": "none", "disk_min_file_size": 1 << 30}
    return module("diskcache").Cache(str(folder), timeout=10, disk=json_disk(), **settings)


@cache
def json_disk() -> Any:
    """Return diskcache's JSONDisk without its ways to pickle and to other files.

    CVE-2025-69872: JSONDisk hands a row with the pickle mode to pickle.load before it looks for
    JSON. Here a row is JSON inside the database or an error; nor can a row make diskcache delete
    the file it names.
    """
    diskcache = module("diskcache")
    base: Any = diskcache.JSONDisk

    class OnlyJson(base):  # type: ignore[misc]
        """Rows that are JSON inside the database, and nothing else."""

        def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
            """Return the value of a row. Raises ValueError for a pickle or a file."""
            if mode != diskcache.core.MODE_RAW or filename is not None or read:
                raise ValueError(f"a row of mode {mode} is not ours")
            return super().fetch(mode, None, value, read)

        def get(self, key: Any, raw: int) -> Any:
            """Return the key of a row. Raises ValueError for a pickle."""
            if not raw:
                raise ValueError("a pickled key is not ours")
            return super().get(key, raw)

        def remove(self, file_path: str) -> None:
            """Remove nothing: no row of ours has a file."""

    return OnlyJson
