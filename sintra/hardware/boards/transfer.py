"""Copy files to the board by content, in chunks.

A copy goes on where a lost connection left it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncssh

CHUNK = 4 << 20  # bytes
PROGRESS_S = 2.0  # between lines of progress, seconds


@dataclass(frozen=True)
class BoardFolder:
    """Hold an open connection and Sintra's folder at its other end."""

    connection: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient
    folder: str  # on the board, relative to its home

    def blob(self, digest: str) -> str:
        """Return where the file with this SHA-256 lies or would lie."""
        return f"{self.folder}/blobs/{digest}"

    def part(self, digest: str) -> str:
        """Return where the file with this SHA-256 lies while it is on its way."""
        return f"{self.blob(digest)}.part"

    async def size(self, path: str) -> int | None:
        """Return the bytes of a file on the board, or None where there is none."""
        try:
            return (await self.sftp.stat(path)).size
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None

    async def holds(self, path: str, content: bytes) -> bool:
        """Return whether a file on the board has exactly this content, which is read back."""
        if await self.size(path) != len(content):
            return False
        async with self.sftp.open(path, "rb") as file:
            found = cast(bytes, await file.read(len(content) + 1))
            return found == content


def resume_offset(copied: int, size: int) -> int:
    """Return where to go on with a copy of `size` bytes of which `copied` are there.

    It is where the last chunk begins, since a chunk's blocks travel side by side and it can have
    holes.
    """
    return 0 if copied > size else max(0, (copied - 1) // CHUNK * CHUNK)


async def send_file(
    board: BoardFolder, path: Path, digest: str, say: Callable[[str], None]
) -> None:
    """Copy a file to its .part, from where an earlier attempt left it."""
    size, copied = path.stat().st_size, await board.size(board.part(digest))
    start = resume_offset(copied or 0, size)
    say(f"copying {size / 1e6:.1f} MB" + (f", going on at {start / 1e6:.1f} MB" if start else ""))
    last_line = time.monotonic()
    mode = "wb" if copied is None else "r+b"
    with path.open("rb") as source:
        source.seek(start)
        async with board.sftp.open(board.part(digest), mode) as target:
            for offset in range(start, size, CHUNK):
                await target.write(await asyncio.to_thread(source.read, CHUNK), offset)
                if time.monotonic() - last_line > PROGRESS_S:
                    last_line = time.monotonic()
                    say(f"copied {min(size, offset + CHUNK) / 1e6:.1f} of {size / 1e6:.1f} MB")
            await target.truncate(size)
