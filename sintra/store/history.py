"""Every result of every study, in SQLite: append-only, with migrations by `PRAGMA user_version`.

A row has a sum over what it holds. Where the file or a row is damaged, what can be read goes on in
a new file, and the old one is put into quarantine.
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
from typing import Any, TypeVar

from sintra.core.canonical import canonical, sha256
from sintra.core.recipe import Recipe
from sintra.store.locks import exclusive, leased

MIGRATIONS = (
    """CREATE TABLE result (
        id INTEGER PRIMARY KEY, made TEXT NOT NULL, study TEXT NOT NULL, model TEXT NOT NULL, hardware TEXT NOT NULL,
        goal TEXT NOT NULL, status TEXT NOT NULL, winner TEXT, digest TEXT NOT NULL, result TEXT NOT NULL
    );
    CREATE INDEX result_study ON result (study, id);""",
    "ALTER TABLE result ADD COLUMN learned TEXT;",
    "ALTER TABLE result ADD COLUMN sum TEXT;",
)
SHORT = ("made", "study", "model", "hardware", "goal", "status", "winner", "digest", "learned")
PASSING = (
    "locked",
    "readonly",
    "unable to open",
    "full",
    "disk I/O",
)  # of sqlite's messages: no damage
Found = TypeVar("Found")


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, brought up to date; commits at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(path, timeout=30)
    try:
        shared = leased(path.parent, "auto")
        with ExitStack() as stack:
            with ExitStack() as opening:  # two may open a new database at once
                (stack if shared else opening).enter_context(
                    exclusive(path.with_suffix(".lock"), "auto")
                )
                migrate(base, shared)
            with base:
                yield base
    finally:
        base.close()


def migrate(base: sqlite3.Connection, shared: bool = False) -> None:
    """Run the migrations that the database hasn't seen. shared: on a network filesystem, where WAL
    doesn't work (https://sqlite.org/wal.html) and the caller holds a lease all along.
    """
    base.execute(f"PRAGMA journal_mode={'DELETE' if shared else 'WAL'}")
    version = base.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        base.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")


def append(path: Path, result: Mapping[str, Any], digest: str) -> bool:
    """Add a result unless it is what this study's last row says; returns whether it was added."""
    winner = Recipe.of(result["winner"]["recipe"]).name if result["winner"] else None
    row = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "study": result["study"],
        "model": result["model"],
        "hardware": result["hardware"],
        "goal": result["goal"]["name"],
        "status": result["status"],
        "winner": winner,
        "digest": digest,
        "result": json.dumps(result),
        "learned": json.dumps(result["learned"]) if result.get("learned") else None,
    }

    def add(base: sqlite3.Connection) -> bool:
        base.row_factory = sqlite3.Row
        last = base.execute(
            "SELECT * FROM result WHERE study = ? ORDER BY id DESC", (row["study"],)
        ).fetchone()
        if last and last["digest"] == digest and _sound(dict(last)):
            return False
        _insert(base, row)
        return True

    return _tried(path, add)


def rows(path: Path) -> list[dict[str, Any]]:
    """All results, the oldest first."""
    return _select(path, "SELECT * FROM result ORDER BY id")


def lessons(path: Path) -> list[dict[str, Any]]:
    """What each study taught, by its last result, the oldest first; without the results, which are
    large.
    """
    return _select(
        path,
        f"SELECT id, {', '.join(SHORT)}, sum FROM result WHERE id IN (SELECT MAX(id) FROM result "
        "GROUP BY study) AND learned IS NOT NULL ORDER BY id",
    )


def times(path: Path) -> list[dict[str, Any]]:
    """Of each result its model, how long its run took (seconds) and how many steps that built, the
    oldest first.
    """
    found = ((r["model"], json.loads(r["result"])) for r in rows(path))
    return [
        {"model": model, "wall_s": r["wall_s"], "built": r["steps"]["built"]}
        for model, r in found
        if r["steps"]["built"]
    ]


def forget(path: Path, study: str | None) -> int:
    """Delete a study's results, or all of them; returns how many rows went. What it taught is gone
    with them.
    """
    if not path.exists():
        return 0
    where, given = ("WHERE study = ?", (study,)) if study is not None else ("", ())
    return _tried(path, lambda base: base.execute(f"DELETE FROM result {where}", given).rowcount)


def _insert(base: sqlite3.Connection, row: dict[str, Any]) -> None:
    names = (*SHORT, "result")
    marks = ", ".join("?" * (len(names) + 1))
    base.execute(
        f"INSERT INTO result ({', '.join(names)}, sum) VALUES ({marks})",
        (*(row[n] for n in names), _sum(row)),
    )


def _sum(row: dict[str, Any]) -> str:
    """Two digests: of what is short, and of the result."""
    short = sha256(canonical([row[name] for name in SHORT]))
    return f"{short}:{sha256(row['result'])}" if "result" in row else short


def _sound(row: dict[str, Any]) -> bool:
    """Whether a row is what was written; one from before there were sums, whether it can be read."""
    try:
        if row["sum"] is not None:
            return bool(row["sum"].startswith(_sum(row)))
        return all(
            row.get(name) is None or isinstance(json.loads(row[name]), dict)
            for name in ("result", "learned")
        )
    except (ValueError, TypeError, AttributeError):
        return False


def _select(path: Path, query: str) -> list[dict[str, Any]]:
    def read(base: sqlite3.Connection) -> list[dict[str, Any]]:
        base.row_factory = sqlite3.Row
        return [dict(r) for r in base.execute(query)]

    found = _tried(path, read) if path.exists() else []
    if all(_sound(r) for r in found):
        return found
    with contextlib.suppress(OSError):  # a cache that is read-only
        mend(path)
    return [r for r in found if _sound(r)]


def _tried(path: Path, work: Callable[[sqlite3.Connection], Found]) -> Found:
    """Do some work; a damaged file is mended first. Raises sqlite3.OperationalError for what isn't
    damage.
    """
    try:
        with opened(path) as base:
            return work(base)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if any(word in str(error) for word in PASSING):
            raise
        mend(path)
    with opened(path) as base:
        return work(base)


def mend(path: Path) -> None:
    """Put a damaged history into quarantine, and all of its rows that are sound into a new one."""
    aside = path.parent / "quarantine" / f"{path.name}.{os.urandom(4).hex()}"
    aside.parent.mkdir(exist_ok=True, mode=0o700)
    os.replace(path, aside)
    for end in ("-wal", "-shm"):
        if path.with_name(path.name + end).exists():
            os.replace(path.with_name(path.name + end), aside.with_name(aside.name + end))
    kept = list(_salvaged(aside))
    with opened(path) as base:
        for row in kept:
            _insert(base, row)
    print(
        f"sintra: {path.name} was damaged: {len(kept)} results are kept, the old file is {aside}",
        file=sys.stderr,
    )


def _salvaged(path: Path) -> Iterator[dict[str, Any]]:
    """The sound rows of a damaged database, as far as they can be read."""
    base = sqlite3.connect(path)
    base.row_factory = sqlite3.Row
    number, missed = 0, 0
    while missed < 100:
        number += 1
        try:
            found = base.execute("SELECT * FROM result WHERE id = ?", (number,)).fetchone()
        except (sqlite3.Error, UnicodeDecodeError):
            found = None
        missed = 0 if found else missed + 1
        if found and _sound(dict(found) | {"sum": dict(found).get("sum")}):
            yield {"learned": None} | dict(found)
    base.close()
