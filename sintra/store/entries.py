"""AC entries as they lie on disk: written with a checksum, read strictly.

Caches are shared and disks lose bits, so whatever isn't exactly an entry is a miss. A path in an
entry becomes a path on disk (a view, outputs/), and a digest becomes the name of a blob: neither
may lead anywhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Required, TypedDict, cast

from sintra.core.artifact import Artifact, Failure, File
from sintra.core.canonical import sealed, unsealed

DIGEST = re.compile(r"[0-9a-f]{64}")
TYPES = {  # of what an entry says about its step
    "step": str,
    "stage": str,
    "made": str,
    "action": dict,
    "peak_rss": int | float,
    "wall_s": int | float,
}
LONGEST_PATH, LONGEST_NAME = 1024, 200  # filesystems take 4096 and 255, of which ours are a part


class MalformedEntry(ValueError):
    """What an AC entry says is not an artifact; the message names the fault."""


class FileRow(TypedDict):
    """One file of an artifact, as JSON."""

    path: str  # relative, with /
    size: int  # bytes
    sha256: str  # 64 hex digits: the blob's name


class FailureRow(TypedDict, total=False):
    """A failed step, as JSON."""

    kind: Required[str]  # unsupported, out_of_memory, not_a_number, refused
    message: Required[str]
    log: str  # the last lines of the worker's log


class StepRecord(TypedDict, total=False):
    """What an entry says about its step, beside the key and the outcome."""

    step: str  # the step's name, "stage:label"
    stage: str
    action: dict[str, Any]  # everything that the key is the digest of
    peak_rss: float  # bytes
    wall_s: float  # seconds
    made: str  # UTC, as 2026-01-31T12:00:00Z


class Entry(StepRecord, total=False):
    """An AC entry: a step's key and its outcome, which is either files or a failure."""

    key: Required[str]  # SHA-256 of the action's canonical JSON, 64 hex digits
    files: list[FileRow]
    failure: FailureRow


def file_row(file: File) -> FileRow:
    """Return one file of an artifact as JSON."""
    return {"path": file.path, "size": file.size, "sha256": file.sha256}


def format_entry(entry: Entry) -> str:
    """Return an entry's text as it is written to disk, with its checksum."""
    return sealed(json.dumps(entry, sort_keys=True))


def parse_entry(raw: bytes, key: str) -> tuple[Entry, Artifact | Failure] | None:
    """Read an entry and its outcome from its bytes.

    Return None where they aren't what was written, are another key's, or name no usable outcome.
    """
    data = unsealed(raw)
    if data is None or data.get("key") != key or not _has_types(data):
        return None
    outcome = read_outcome(data)
    return None if outcome is None else (cast(Entry, data), outcome)


def _has_types(data: Mapping[str, Any]) -> bool:
    """Return whether what an entry says about its step has the types that it should have."""
    return all(isinstance(data[name], kind) for name, kind in TYPES.items() if name in data)


def read_outcome(entry: Mapping[str, Any]) -> Artifact | Failure | None:
    """Return the artifact or the failure that an entry names; None where it is malformed."""
    if "failure" in entry:
        return _read_failure(entry["failure"])
    try:
        return Artifact(parse_files(entry.get("files")))
    except MalformedEntry:
        return None


def _read_failure(row: Any) -> Failure | None:
    """Return the failure in a row; None where it has other keys or values that are not texts."""
    if not isinstance(row, dict):
        return None
    complete = {"kind", "message"} <= set(row) <= {"kind", "message", "log"}
    return Failure(**row) if complete and all(isinstance(v, str) for v in row.values()) else None


def parse_files(rows: object) -> tuple[File, ...]:
    """Return the files of an artifact: each path once, none of them the folder of another.

    Raises MalformedEntry.
    """
    if not isinstance(rows, list):
        raise MalformedEntry("it has neither files nor a failure")
    files = tuple(parse_file(row) for row in rows)
    paths = {file.path for file in files}
    if len(paths) < len(files):
        raise MalformedEntry("it names a path twice")
    nested = (PurePosixPath(path).parents for path in paths if "/" in path)
    if paths & {str(folder) for folders in nested for folder in folders}:
        raise MalformedEntry("one of its files is the folder of another")
    return files


def parse_file(row: object) -> File:
    """Return one file of an artifact. Raises MalformedEntry."""
    if not isinstance(row, dict) or set(row) != {"path", "size", "sha256"}:
        raise MalformedEntry("one of its files is malformed")
    path, size, digest = row["path"], row["size"], row["sha256"]
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise MalformedEntry("one of its digests is not a SHA-256")
    if type(size) is not int or size < 0:
        raise MalformedEntry("one of its sizes is not a number of bytes")
    if not isinstance(path, str) or not stays_inside(path):
        raise MalformedEntry(f"the path {str(path)[:60]!r} leaves its folder")
    return File(path, size, digest)


def stays_inside(path: str) -> bool:
    """Return whether a posix path is plain and stays in the folder that it is relative to."""
    if not path or len(path) > LONGEST_PATH or "\\" in path or not path.isprintable():
        return False
    parts = PurePosixPath(path).parts
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return False
    return not path.startswith("/") and ".." not in parts and "/".join(parts) == path
