"""Check AC entries that come from the shared store: nothing in them is used before.

An entry names its own action, whose SHA-256 is its key; so an entry can't be passed off as
another's. What it says the action produced is only as good as whoever wrote it: where others can
write to the bucket, entries carry an HMAC-SHA256 (RFC 2104) under a key that is taken from the
environment and written nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from sintra.core import plugins
from sintra.core.artifact import PERMISSION_NAME, Artifact, Failure, File
from sintra.core.canonical import canonical, sha256
from sintra.core.stage import Stage
from sintra.core.text import printable_line, printable_text
from sintra.store.entries import Entry, FailureRow, MalformedEntry, file_row, parse_files

MAX_ENTRY_BYTES = 8 << 20
MAX_FILES = 10_000  # of an artifact
MAX_FILE_BYTES = 1 << 50
LONGEST_TEXT = 1024  # characters of a name
LONGEST_MESSAGE = 1 << 16  # characters of a failure's log
LONGEST_FAILURE = 4000  # characters of its message
# Of files that Python imports or a loader maps:
CODE_ENDINGS = (".py", ".pyc", ".pyo", ".pyd", ".pth", ".so", ".dylib", ".dll")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# Failures of an action; others are a machine's, as out_of_memory is:
SHAREABLE_FAILURES = ("unsupported", "not_a_number", "refused")


class RemoteDataError(Exception):
    """Data of the shared store that fails a check; the message says which."""


def parse_shared_entry(raw: bytes, key: str, secret: bytes | None = None) -> Entry:
    """Read the entry of a key, with nothing in it but what an entry has.

    secret: the HMAC's key; without it no HMAC is asked for, and nothing is taken that readers would
    run. Raises RemoteDataError.
    """
    entry = _parse_entry(raw, key, secret)
    if secret is None and holds_code(entry):
        raise RemoteDataError(
            "it is run, and entries without an HMAC aren't believed that far (SINTRA_STORE_KEY)"
        )
    return entry


def _parse_entry(raw: bytes, key: str, secret: bytes | None) -> Entry:
    """Read the entry of a key; what is run is not told apart. Raises RemoteDataError."""
    data = _load_entry(raw, key, secret)
    action = data["action"]
    stage = action.get("stage") if isinstance(action, dict) else None
    entry: Entry = {
        "key": key,
        "action": action,
        "stage": clean_text(stage, "stage"),
        "step": clean_text(data.get("step"), "step"),
    }
    if "wall_s" in data:
        entry["wall_s"] = check_number(data["wall_s"], "wall_s")
    if "peak_rss" in data:
        entry["peak_rss"] = check_number(data["peak_rss"], "peak_rss")
    if isinstance(data.get("made"), str) and TIMESTAMP.fullmatch(data["made"]):
        entry["made"] = data["made"]
    if isinstance(data.get("failure"), dict):
        entry["failure"] = _parse_failure(data["failure"])
    else:
        entry["files"] = [file_row(file) for file in _parse_shared_files(data.get("files"))]
    _check_stage(entry)
    return entry


def holds_code(entry: Entry) -> bool:
    """Return whether what an entry names is run by readers.

    That is what a stage that is `executed` makes, and every file that a library of Python would
    import or that allows a model's code.
    """
    stage = entry.get("stage", "")
    if plugins.has_step(stage) and plugins.load_step(stage).executed:
        return True
    names = [row["path"].rpartition("/")[2] for row in entry.get("files", ())]
    return any(n.endswith(CODE_ENDINGS) or n == PERMISSION_NAME for n in names)


def _check_stage(entry: Entry) -> None:
    """Check that an entry's files are those of its stage, where that is installed here.

    Raises RemoteDataError.
    """
    name = entry["stage"]
    if not plugins.has_step(name):
        return
    stage: Stage = plugins.load_step(name)
    try:
        accepted = stage.accepts(entry["action"]["params"], shared_outcome(entry))
    except (KeyError, TypeError, AttributeError):
        accepted = False
    if not accepted:
        raise RemoteDataError(f"its files are not those of the stage {name}")


def _load_entry(raw: bytes, key: str, secret: bytes | None) -> dict[str, Any]:
    """Read an entry's JSON and check its key and its HMAC. Raises RemoteDataError."""
    try:
        data = json.loads(raw)
        signature = data.pop("hmac", None) if isinstance(data, dict) else None
        if (
            not isinstance(data, dict)
            or data.get("key") != key
            or sha256(canonical(data.get("action"))) != key
        ):
            raise RemoteDataError("it is not the entry of its key")
        if secret is not None and not hmac.compare_digest(
            ascii(signature), ascii(compute_hmac(data, secret))
        ):
            raise RemoteDataError("its HMAC is missing or wrong (SINTRA_STORE_KEY)")
    except (ValueError, RecursionError):
        raise RemoteDataError("it is not an AC entry") from None
    return data


def _parse_failure(row: dict[str, Any]) -> FailureRow:
    """Return the failure that an entry names. Raises RemoteDataError."""
    kind = clean_text(row.get("kind", ""), "kind")
    message = clean_text(row.get("message", ""), "message", LONGEST_FAILURE)
    log = row.get("log", "")
    if not isinstance(log, str) or len(log) > LONGEST_MESSAGE:
        raise RemoteDataError(f"its log is not a text of at most {LONGEST_MESSAGE} characters")
    if kind not in SHAREABLE_FAILURES:
        raise RemoteDataError(f"its failure is not an action's: {kind[:40]!r}")
    return {"kind": kind, "message": message, "log": printable_text(log)}


def _parse_shared_files(rows: object) -> tuple[File, ...]:
    """Return the files that an entry names. Raises RemoteDataError."""
    if isinstance(rows, list) and len(rows) > MAX_FILES:
        raise RemoteDataError(f"it has more than {MAX_FILES} files")
    try:
        files = parse_files(rows)
    except MalformedEntry as error:
        raise RemoteDataError(str(error)) from None
    for file in files:
        if file.size >= MAX_FILE_BYTES:
            raise RemoteDataError("one of its files is too large")
        if ":" in file.path:  # of which Windows makes another stream or drive
            raise RemoteDataError(f"the path {file.path[:60]!r} leaves its folder")
    return files


def clean_text(value: object, name: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text that isn't too long, in one printable line.

    It may be shown on a terminal. Raises RemoteDataError.
    """
    if not isinstance(value, str) or len(value) > longest:
        raise RemoteDataError(f"its {name} is not a text of at most {longest} characters")
    return printable_line(value, longest)


def check_number(value: object, name: str) -> float:
    """Return a finite number that isn't negative. Raises RemoteDataError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise RemoteDataError(f"its {name} is not a number")
    return value


def shared_outcome(entry: Entry) -> Artifact | Failure:
    """Return what a checked entry says came of its action."""
    if "failure" in entry:
        return Failure(**entry["failure"])
    return Artifact(tuple(File(**row) for row in entry["files"]))


def compute_hmac(data: Mapping[str, Any], secret: bytes) -> str:
    """Return the HMAC-SHA256 of an entry's canonical JSON, in hex."""
    return hmac.new(secret, canonical(data).encode(), hashlib.sha256).hexdigest()


def format_shared_entry(entry: Mapping[str, Any], secret: bytes | None) -> bytes:
    """Return an entry as it is written to the shared store, with an HMAC where there is a secret.

    Raises RemoteDataError where no reader would take it.
    """
    unsigned = {name: value for name, value in entry.items() if name != "hmac"}
    checked = _parse_entry(canonical(unsigned).encode(), entry["key"], None)
    signature = {"hmac": compute_hmac(checked, secret)} if secret is not None else {}
    return canonical({**checked, **signature}).encode()
