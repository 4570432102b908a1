"""The SHA-256 of the user's files, remembered by their stat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.canonical import canonical
from sintra.sealed import sealed, unsealed
from sintra.store import hash_file, keep, mark


class Digests:
    """Remembers the SHA-256 of the user's files by their stat, so that a no-op reads no byte of
    them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = unsealed(path.read_bytes())
        except OSError:
            known = None
        self._known: dict[str, list[Any]] = known or {}

    def file(self, path: Path) -> tuple[int, str]:
        """Size and SHA-256 of a file."""
        stat = path.stat()
        now = mark(stat)
        known = self._known.get(str(path.resolve()))
        if known and known[0] == now:
            return stat.st_size, str(known[1])
        digest = hash_file(path)
        self._known[str(path.resolve())] = [now, digest]
        keep(self.path, sealed(canonical(self._known)))
        return stat.st_size, digest
