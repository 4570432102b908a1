"""Every result of every study, in SQLite: append-only, with migrations by `PRAGMA user_version`."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sintra.locks import exclusive, leased
from sintra.types import Recipe

MIGRATIONS = (
    """CREATE TABLE result (
        id INTEGER PRIMARY KEY, made TEXT NOT NULL, study TEXT NOT NULL, model TEXT NOT NULL, hardware TEXT NOT NULL,
        goal TEXT NOT NULL, status TEXT NOT NULL, winner TEXT, digest TEXT NOT NULL, result TEXT NOT NULL
    );
    CREATE INDEX result_study ON result (study, id);""",
    "ALTER TABLE result ADD COLUMN learned TEXT;",
)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, brought up to date; commits at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(path, timeout=30)
    try:
        shared = leased(path.parent, "auto")
        with ExitStack() as stack:
            with ExitStack() as opening:  # two may open a new database at once
                (stack if shared else opening).enter_context(exclusive(path.with_suffix(".lock"), "auto"))
                migrate(base, shared)
            with base:
                yield base
    finally:
        base.close()


def migrate(base: sqlite3.Connection, shared: bool = False) -> None:
    """Run the migrations that the database hasn't seen. shared: on a network filesystem, where WAL doesn't work
    (https://sqlite.org/wal.html) and the caller holds a lease all along."""
    base.execute(f"PRAGMA journal_mode={'DELETE' if shared else 'WAL'}")
    version = base.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        base.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")


def append(path: Path, result: dict[str, Any], digest: str) -> bool:
    """Add a result unless it is what this study's last row says; returns whether it was added."""
    winner = Recipe.of(result["winner"]["recipe"]).name if result["winner"] else None
    with opened(path) as base:
        last = base.execute("SELECT digest FROM result WHERE study = ? ORDER BY id DESC", (result["study"],)).fetchone()
        if last and last[0] == digest:
            return False
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        learned = json.dumps(result["learned"]) if result.get("learned") else None
        base.execute("INSERT INTO result (made, study, model, hardware, goal, status, winner, digest, result, learned) VALUES "
                     "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (made, result["study"], result["model"], result["hardware"],
                     result["goal"]["name"], result["status"], winner, digest, json.dumps(result), learned))  # fmt: skip
    return True


def rows(path: Path) -> list[dict[str, Any]]:
    """All results, the oldest first."""
    return _select(path, "SELECT * FROM result ORDER BY id")


def lessons(path: Path) -> list[dict[str, Any]]:
    """What each study taught, by its last result, the oldest first; without the results, which are large."""
    return _select(path, "SELECT id, study, model, hardware, goal, status, winner, learned FROM result WHERE id IN "
                         "(SELECT MAX(id) FROM result GROUP BY study) AND learned IS NOT NULL ORDER BY id")  # fmt: skip


def times(path: Path) -> list[dict[str, Any]]:
    """Of each result its model, how long its run took (seconds) and how many steps that built, the oldest first."""
    return _select(path, "SELECT model, json_extract(result, '$.wall_s') AS wall_s, json_extract(result, '$.steps.built') AS"
                         " built FROM result WHERE built > 0 ORDER BY id")  # fmt: skip


def forget(path: Path, study: str | None) -> int:
    """Delete a study's results, or all of them; returns how many rows went. What it taught is gone with them."""
    if not path.exists():
        return 0
    with opened(path) as base:
        where, given = ("WHERE study = ?", (study,)) if study is not None else ("", ())
        return base.execute(f"DELETE FROM result {where}", given).rowcount


def _select(path: Path, query: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with opened(path) as base:
        base.row_factory = sqlite3.Row
        return [dict(r) for r in base.execute(query)]
