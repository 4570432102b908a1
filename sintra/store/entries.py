"""What an AC entry may say: read strictly, since caches are shared and disks rot. Anything else is
a miss.

A path in an entry becomes a path on disk (a view, outputs/), and a digest becomes the name of a
blob: neither may lead anywhere else.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from sintra.core.canonical import sealed, unsealed
from sintra.core.types import Artifact, Failure, File

DIGEST = re.compile(r"[0-9a-f]{64}")
LONGEST, LONGEST_NAME = 1024, 200  # filesystems take 4096 and 255, of which ours are a part


def text(data: dict[str, Any]) -> str:
    """An entry as it is written."""
    return sealed(json.dumps(data, sort_keys=True))


def read(raw: bytes, key: str) -> dict[str, Any] | None:
    """An entry's content, or None where it isn't what was written, isn't this key's, or names no
    outcome that may be used.
    """
    data = unsealed(raw)
    if data is None or data.get("key") != key:
        return None
    return data if outcome(data) is not None else None


def outcome(data: dict[str, Any]) -> Artifact | Failure | None:
    """The artifact or the failure that an entry names; None where it is malformed."""
    if "failure" in data:
        found = data["failure"]
        good = (
            isinstance(found, dict)
            and set(found) <= {"kind", "message", "log"}
            and {"kind", "message"} <= set(found)
        )
        return (
            Failure(**found) if good and all(isinstance(v, str) for v in found.values()) else None
        )
    rows = data.get("files")
    if not isinstance(rows, list):
        return None
    files = [file(row) for row in rows]
    made = tuple(f for f in files if f is not None)
    paths = {f.path for f in made}
    above = {str(p) for f in made for p in PurePosixPath(f.path).parents}
    return Artifact(made) if len(made) == len(files) == len(paths) and not paths & above else None


def file(row: Any) -> File | None:
    """One file of an artifact; None where its path, size or digest can't be one."""
    if not isinstance(row, dict) or set(row) != {"path", "size", "sha256"}:
        return None
    path, size, digest = row["path"], row["size"], row["sha256"]
    if (
        not isinstance(digest, str)
        or not DIGEST.fullmatch(digest)
        or type(size) is not int
        or size < 0
    ):
        return None
    return File(path, size, digest) if isinstance(path, str) and inside(path) else None


def inside(path: str) -> bool:
    """Whether a posix path stays in the folder that it is relative to."""
    if not path or len(path) > LONGEST or "\0" in path or "\\" in path or not path.isprintable():
        return False
    parts = PurePosixPath(path).parts
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return False
    return not path.startswith("/") and ".." not in parts and "/".join(parts) == path
