"""Keep every result of every study in SQLite: append-only, migrated by `PRAGMA user_version`.

A row has a checksum over what it holds. Where the file or a row is damaged, what can be read goes
on in a new file, and the old one is put into quarantine.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from sintra.core.canonical import canonical, sha256
from sintra.core.types import upgrade_status
from sintra.store.files import is_odd, make_folder, move_to_quarantine
from sintra.store.locks import hold_lock, uses_leases

MIGRATIONS = (
    """CREATE TABLE result (
        id INTEGER PRIMARY KEY, made TEXT NOT NULL, study TEXT NOT NULL, model TEXT NOT NULL,
        hardware TEXT NOT NULL, goal TEXT NOT NULL, status TEXT NOT NULL, winner TEXT,
        digest TEXT NOT NULL, result TEXT NOT NULL
    );
    CREATE INDEX result_study ON result (study, id);""",
    "ALTER TABLE result ADD COLUMN learned TEXT;",
    "ALTER TABLE result ADD COLUMN sum TEXT;",
)
SUMMARY_COLUMNS = (  # all but the result itself, which is large
    "made",
    "study",
    "model",
    "hardware",
    "goal",
    "status",
    "winner",
    "digest",
    "learned",
)
# Words of SQLite's messages that speak of a fault that may pass, not of a damaged file:
PASSING_FAULTS = ("locked", "readonly", "unable to open", "full", "disk I/O")
LARGEST_GAP = 100  # of consecutive ids without a readable row, before a salvage ends
T = TypeVar("T")


class SummaryRow(TypedDict):
    """What every row of the table `result` has."""

    id: NotRequired[int]
    made: str  # when it was written: UTC, as 2026-01-31T12:00:00Z
    study: str  # the study's id
    model: str
    hardware: str
    goal: str  # the goal's name
    status: str  # pass, fail, impossible, inconclusive
    winner: str | None  # the name of the winner's recipe
    digest: str  # SHA-256 of the result without what belongs to the run
    sum: NotRequired[str | None]  # the checksum; None in rows from before there was one


class HistoryRow(SummaryRow):
    """A row of the table `result`."""

    learned: str | None  # JSON: what later studies may learn from it
    result: str  # JSON: result.json


class LessonRow(SummaryRow):
    """A row of a study that taught something, without its result."""

    learned: str  # JSON: what later studies may learn from it


class RunTime(TypedDict):
    """How long a study's run took."""

    model: str
    wall_s: float  # seconds
    built: int  # steps that the run built


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database, brought up to date; commit at the end."""
    make_folder(path.parent)
    base = sqlite3.connect(path, timeout=30)
    try:
        networked = uses_leases(path.parent, "auto")
        with ExitStack() as stack:
            with ExitStack() as opening:  # two may open a new database at once
                (stack if networked else opening).enter_context(
                    hold_lock(path.with_suffix(".lock"), "auto")
                )
                migrate(base, networked)
            with base:
                yield base
    finally:
        base.close()


def migrate(base: sqlite3.Connection, networked: bool = False) -> None:
    """Run the migrations that the database hasn't seen.

    networked: it lies on a network filesystem, where WAL doesn't work
    (https://sqlite.org/wal.html) and the caller holds a lease all along.
    """
    base.execute(f"PRAGMA journal_mode={'DELETE' if networked else 'WAL'}")
    version = base.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        base.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")


def append_result(path: Path, result: Mapping[str, Any], digest: str) -> bool:
    """Add a result unless it is what this study's last row says; return whether it was added.

    Raises sqlite3.OperationalError where the database can't be written.
    """
    row = _row_of(result, digest)

    def add(base: sqlite3.Connection) -> bool:
        base.row_factory = sqlite3.Row
        last = base.execute(
            "SELECT * FROM result WHERE study = ? ORDER BY id DESC", (row["study"],)
        ).fetchone()
        if last and last["digest"] == digest and _is_sound(dict(last)):
            return False
        _insert(base, row)
        return True

    return _with_database(path, add)


def _row_of(result: Mapping[str, Any], digest: str) -> HistoryRow:
    """Return the row of a result of now."""
    winner = result["winner"]
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "study": result["study"],
        "model": result["model"],
        "hardware": result["hardware"],
        "goal": result["goal"]["name"],
        "status": result["status"],
        "winner": winner["name"] if winner else None,
        "digest": digest,
        "result": json.dumps(result),
        "learned": json.dumps(result["learned"]) if result.get("learned") else None,
    }


def read_results(path: Path) -> list[HistoryRow]:
    """Return all results, the oldest first. Raises sqlite3.OperationalError."""
    rows = _select(path, "SELECT * FROM result ORDER BY id")
    return cast(list[HistoryRow], list(map(_with_new_status, rows)))


def read_lessons(path: Path) -> list[LessonRow]:
    """Return the last row of each study that taught something, the oldest first.

    The rows are without the results, which are large. Raises sqlite3.OperationalError.
    """
    query = (
        f"SELECT id, {', '.join(SUMMARY_COLUMNS)}, sum FROM result WHERE id IN (SELECT MAX(id) "
        "FROM result GROUP BY study) AND learned IS NOT NULL ORDER BY id"
    )
    return cast(list[LessonRow], list(map(_with_new_status, _select(path, query))))


def read_run_times(path: Path) -> list[RunTime]:
    """Return how long each run that built something took, the oldest first.

    Raises sqlite3.OperationalError.
    """
    results = ((row["model"], json.loads(row["result"])) for row in read_results(path))
    return [
        {"model": model, "wall_s": result["wall_s"], "built": result["steps"]["built"]}
        for model, result in results
        if result["steps"]["built"]
    ]


def delete_results(path: Path, study: str | None) -> int:
    """Delete a study's results, or all where it is None; return how many rows went.

    What the study taught goes with them. Raises sqlite3.OperationalError.
    """
    if not path.exists():
        return 0
    where, values = ("WHERE study = ?", (study,)) if study is not None else ("", ())

    def delete(base: sqlite3.Connection) -> int:
        return base.execute(f"DELETE FROM result {where}", values).rowcount

    return _with_database(path, delete)


def _insert(base: sqlite3.Connection, row: Mapping[str, Any]) -> None:
    """Add a row with its checksum."""
    columns = (*SUMMARY_COLUMNS, "result")
    marks = ", ".join("?" * (len(columns) + 1))
    base.execute(
        f"INSERT INTO result ({', '.join(columns)}, sum) VALUES ({marks})",
        (*(row[name] for name in columns), _checksum(row)),
    )


def _checksum(row: Mapping[str, Any]) -> str:
    """Return two digests with a colon between: of the summary columns, and of the result.

    For a row without its result it is the first alone.
    """
    summary = sha256(canonical([row[name] for name in SUMMARY_COLUMNS]))
    return f"{summary}:{sha256(row['result'])}" if "result" in row else summary


def _is_sound(row: Mapping[str, Any]) -> bool:
    """Return whether a row is what was written.

    A row from before there were checksums is sound where its JSON can be read.
    """
    try:
        checksum = row["sum"]
        if checksum is not None:
            return bool(checksum.startswith(_checksum(row)))
        texts = (row.get("result"), row.get("learned"))
        return all(text is None or isinstance(json.loads(text), dict) for text in texts)
    except (ValueError, TypeError, AttributeError):
        return False


def _select(path: Path, query: str) -> list[dict[str, Any]]:
    """Return the sound rows of a query; mend the file where there are others."""

    def read(base: sqlite3.Connection) -> list[dict[str, Any]]:
        base.row_factory = sqlite3.Row
        return [dict(row) for row in base.execute(query)]

    rows = _with_database(path, read) if os.path.lexists(path) else []
    sound = [row for row in rows if _is_sound(row)]
    if len(sound) < len(rows):
        with contextlib.suppress(OSError):  # a cache that is read-only
            mend_database(path)
    return sound


def _with_new_status(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with today's word for its status."""
    return {**row, "status": upgrade_status(row["status"])}


def _with_database(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do some work on the database; mend a damaged file first.

    Raises sqlite3.OperationalError for what isn't damage.
    """
    set_odd_aside(path)
    try:
        with open_database(path) as base:
            return work(base)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if any(word in str(error) for word in PASSING_FAULTS):
            raise
        mend_database(path)
    with open_database(path) as base:
        return work(base)


def set_odd_aside(path: Path) -> None:
    """Put what has the name of the database or of a file beside it, and is no file, aside."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        beside = path.with_name(path.name + suffix)
        if is_odd(beside):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                move_to_quarantine(path.parent, beside)


def mend_database(path: Path) -> None:
    """Put a damaged history into quarantine, and all of its rows that are sound into a new one."""
    damaged = move_to_quarantine(path.parent, path, companions=("-wal", "-shm"))
    rows = list(_salvage_rows(damaged))
    with open_database(path) as base:
        for row in rows:
            _insert(base, row)
    print(
        f"sintra: {path.name} was damaged: {len(rows)} results are kept, the old file is {damaged}",
        file=sys.stderr,
    )


def _salvage_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the sound rows of a damaged database, as far as they can be read."""
    base = sqlite3.connect(path)
    base.row_factory = sqlite3.Row
    number, missed = 0, 0
    while missed < LARGEST_GAP:
        number += 1
        try:
            row = base.execute("SELECT * FROM result WHERE id = ?", (number,)).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            row = None
        if row is None:
            missed += 1
            continue
        missed = 0
        values = {"sum": None, **dict(row)}
        if _is_sound(values):
            yield {"learned": None, **values}
    base.close()
