"""Remember which files were found to have their SHA-256, so that each is read once and not again
while its size, times and inode stay.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from sintra.core.canonical import canonical
from sintra.store.files import change_mark, hash_file, read_regular, write_if_possible


class SoundFiles:
    """A list of files and their marks; losing it costs time only."""

    def __init__(self, memory: Path) -> None:
        """memory: the file that the list is kept in."""
        self.memory = memory
        self._marks: dict[str, Any] = {}  # path -> [SHA-256, *change_mark]
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(read_regular(memory))
            self._marks = kept if isinstance(kept, dict) else {}

    def is_sound(self, path: Path, digest: str) -> bool:
        """Return whether a file has this SHA-256; it is read where its mark isn't remembered."""
        try:
            if self._marks.get(str(path)) == _mark(path, digest):
                return True
            if hash_file(path) != digest:
                return False
        except OSError:
            return False
        self.remember(path, digest)
        return True

    def remember(self, path: Path, digest: str) -> None:
        """Take a file as sound that the caller has just read or made from what is."""
        with suppress(OSError):
            self._marks[str(path)] = _mark(path, digest)

    def save(self) -> None:
        """Write the list, without files that are gone; a read-only cache is passed over."""
        self._marks = {name: mark for name, mark in self._marks.items() if Path(name).exists()}
        text = canonical(self._marks)
        with suppress(OSError):
            if read_regular(self.memory) == text.encode():
                return
        write_if_possible(self.memory, text)


def _mark(path: Path, digest: str) -> list[Any]:
    return [digest, *change_mark(path.stat())]
