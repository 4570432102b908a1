"""Files to the board: by content, in chunks, taken up where a lost connection left them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

CHUNK, TELL_S = 4 << 20, 2.0


@dataclass(frozen=True)
class Remote:
    """An open connection, its SFTP, and our folder on the board."""

    connection: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient
    folder: str

    def blob(self, digest: str) -> str:
        """Where the file with this SHA-256 lies or would lie."""
        return f"{self.folder}/blobs/{digest}"

    def part(self, digest: str) -> str:
        """The same while it is on its way."""
        return f"{self.blob(digest)}.part"

    async def size(self, path: str) -> int | None:
        """Bytes of a file on the board, or None where there is none."""
        try:
            return (await self.sftp.stat(path)).size
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None


def resumed(there: int, size: int) -> int:
    """Where to go on: where the last chunk of what is there begins, since a chunk's blocks travel
    side by side and it can have holes.
    """
    return 0 if there > size else max(0, (there - 1) // CHUNK * CHUNK)


async def sent(remote: Remote, path: Path, digest: str, say: Callable[[str], None]) -> None:
    """Copy a file to its .part, from where an earlier attempt left it."""
    size, there = path.stat().st_size, await remote.size(remote.part(digest))
    start = resumed(there or 0, size)
    say(f"copying {size / 1e6:.1f} MB" + (f", going on at {start / 1e6:.1f} MB" if start else ""))
    told = time.monotonic()
    with path.open("rb") as source:
        source.seek(start)
        async with remote.sftp.open(
            remote.part(digest), "wb" if there is None else "r+b"
        ) as target:
            for place in range(start, size, CHUNK):
                await target.write(await asyncio.to_thread(source.read, CHUNK), place)
                if time.monotonic() - told > TELL_S:
                    told = time.monotonic()
                    say(f"copied {min(size, place + CHUNK) / 1e6:.1f} of {size / 1e6:.1f} MB")
            await target.truncate(size)
