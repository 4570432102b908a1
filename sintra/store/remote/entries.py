"""AC entries that come from elsewhere: nothing in them is believed before it has been checked.

An entry names its own action, whose SHA-256 is its key; so an entry can't be passed off as
another's. What it says the action produced can only be believed of who wrote it: where others can
write to the bucket, entries carry an HMAC-SHA256 (RFC 2104) under a key that is taken from the
environment and written nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from sintra.core.canonical import canonical, sha256
from sintra.core.types import Artifact, Failure, File
from sintra.store import entries

MOST_BYTES = 8 << 20
MOST_FILES = 10_000
LONGEST = 1024
MADE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
KINDS = (
    "unsupported",
    "not_a_number",
    "refused",
)  # of an action, not of a machine as out_of_memory is


class Refused(Exception):
    """Something of the remote store that is not believed; the message says why."""


def parsed(raw: bytes, key: str, secret: bytes | None = None) -> dict[str, Any]:
    """The entry of a key with nothing in it but what an entry has. secret: the HMAC's key; without
    it none is asked for.

    Raises Refused.
    """
    try:
        data = json.loads(raw)
        given = data.pop("hmac", None) if isinstance(data, dict) else None
        if (
            not isinstance(data, dict)
            or data.get("key") != key
            or sha256(canonical(data.get("action"))) != key
        ):
            raise Refused("it is not the entry of its key")
        if secret is not None and not hmac.compare_digest(ascii(given), ascii(mark(data, secret))):
            raise Refused("its HMAC is missing or wrong (SINTRA_STORE_KEY)")
    except (ValueError, RecursionError):
        raise Refused("it is no AC entry") from None
    action = data["action"]
    stage = action.get("stage") if isinstance(action, dict) else None
    made = {
        "key": key,
        "action": action,
        "stage": text(stage, "stage"),
        "step": text(data.get("step"), "step"),
    }
    made |= {name: number(data.get(name), name) for name in ("wall_s", "peak_rss") if name in data}
    if isinstance(data.get("made"), str) and MADE.fullmatch(data["made"]):
        made["made"] = data["made"]
    return made | produced(data)


def produced(data: dict[str, Any]) -> dict[str, Any]:
    """The part that says what came of it: files or a failure. Raises Refused."""
    failure = data.get("failure")
    if isinstance(failure, dict):
        said = {
            name: text(failure.get(name, ""), name, 1 << 16) for name in ("kind", "message", "log")
        }
        if said["kind"] not in KINDS:
            raise Refused(f"it names a failure that is no action's {said['kind'][:40]!r}")
        return {"failure": said}
    files = data.get("files")
    if not isinstance(files, list) or len(files) > MOST_FILES:
        raise Refused("it has neither files nor a failure")
    return {"files": [asdict(f) for f in tree(files)]}


def tree(files: list[Any]) -> list[File]:
    """A list of files as a tree: relative paths, each once, none of them the folder of another.
    Raises Refused.
    """
    found = [one(f) for f in files]
    paths = {f.path for f in found}
    if len(paths) < len(found):
        raise Refused("it names a path twice")
    if any(str(folder) in paths for f in found for folder in PurePosixPath(f.path).parents):
        raise Refused("one of its files is the folder of another")
    return found


def one(file: Any) -> File:
    """One file of an entry. Raises Refused."""
    if not isinstance(file, dict) or set(file) != {"path", "size", "sha256"}:
        raise Refused("one of its files is no file")
    path, size, digest = file["path"], file["size"], file["sha256"]
    if not isinstance(digest, str) or not entries.DIGEST.fullmatch(digest):
        raise Refused("one of its digests is no SHA-256")
    if type(size) is not int or not 0 <= size < 1 << 50:
        raise Refused("one of its sizes is none")
    if not isinstance(path, str) or not inside(path):
        raise Refused(f"the path {str(path)[:60]!r} leaves its folder")
    return File(path, size, digest)


def inside(path: str) -> bool:
    """Whether a path is relative, plain and stays below the folder that it is put in."""
    return (
        entries.inside(path) and ":" not in path
    )  # of which Windows makes another stream or drive


def text(value: Any, name: str, longest: int = LONGEST) -> str:
    """A text, not too long, without control characters. Raises Refused."""
    if not isinstance(value, str) or len(value) > longest:
        raise Refused(f"its {name} is no text")
    return "".join(
        c if c.isprintable() or c in "\n\t" else "?" for c in value
    )  # it may be shown on a terminal


def number(value: Any, name: str) -> float:
    """A finite number. Raises Refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise Refused(f"its {name} is no number")
    return value


def outcome(data: dict[str, Any]) -> Artifact | Failure:
    """What a checked entry says came of its action."""
    if "failure" in data:
        return Failure(**data["failure"])
    return Artifact(tuple(File(**f) for f in data["files"]))


def mark(data: dict[str, Any], secret: bytes) -> str:
    """The HMAC-SHA256 of an entry's canonical JSON, in hex."""
    return hmac.new(secret, canonical(data).encode(), hashlib.sha256).hexdigest()


def sealed(data: dict[str, Any], secret: bytes | None) -> bytes:
    """An entry as it is written to the remote store. Raises Refused where no reader would take it."""
    plain = parsed(canonical({k: v for k, v in data.items() if k != "hmac"}).encode(), data["key"])
    return canonical(plain | ({"hmac": mark(plain, secret)} if secret is not None else {})).encode()
