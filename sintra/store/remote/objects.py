"""Objects in a bucket or a folder, through obstore (https://developmentseed.org/obstore/): get,
put, list, each checked.

What is read is hashed on the way, and so is what is sent: a blob that isn't what its name says is
neither stored nor shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sintra.core.errors import UserError
from sintra.store.remote.address import Address
from sintra.store.remote.entries import MOST_BYTES, Refused

LACKING = "a shared store needs obstore: pip install -c constraints.txt -e '.[remote]'"
PART = 8 << 20
AT_ONCE = 4
ENTRY = re.compile(r"ac/([0-9a-f]{2})/(\1[0-9a-f]{62})\.json")
Progress = Callable[[int], None]


class Unreachable(Exception):
    """The remote store doesn't answer, or not to us; the message is one line without secrets."""


def opened(where: Address, patient: bool) -> Any:
    """An obstore store. patient: with retries; without, it is soon known whether anybody is there.
    Raises UserError.
    """
    try:
        from obstore.store import LocalStore, from_url
    except ImportError:
        raise UserError(LACKING) from None
    if where.folder:
        return LocalStore(where.folder, mkdir=where.writable)
    http = {
        "connect_timeout": "3s",
        "read_timeout": "30s",
        "timeout": "10m" if patient else "10s",
        "allow_http": plain_http(),
    }
    retry = {
        "max_retries": 5 if patient else 1,
        "retry_timeout": timedelta(seconds=40 if patient else 5),
    }
    return from_url(where.url, client_options=http, retry_config=retry)  # type: ignore[call-overload]


def plain_http() -> bool:
    """Whether the endpoint may be spoken to without TLS: on loopback, or where the user says so."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    host = urlsplit(next((os.environ[n] for n in names if os.environ.get(n)), "")).hostname
    return (
        host in ("127.0.0.1", "localhost", "::1")
        or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
    )


class Forbidden(Unreachable):
    """It answers, but doesn't let us, or can't do what was asked."""


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """obstore's errors as Unreachable, in one line; that something isn't there, or is there
    already, is no such error.
    """
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    try:
        yield
    except AlreadyExistsError:
        raise
    except (
        BaseError,
        PermissionError,
        NotADirectoryError,
        ValueError,
    ) as error:  # ValueError: a name that is no path
        line = re.sub(r"\?\S*", "", str(error).split("\n")[0])[:240]
        if isinstance(
            error, (PermissionDeniedError, UnauthenticatedError, NotSupportedError, PermissionError)
        ):
            raise Forbidden(line) from None
        raise Unreachable(line) from None


class Objects:
    """The two key spaces of a remote store: `ac/ab/<key>.json` and `cas/ab/<sha256>`."""

    def __init__(self, where: Address) -> None:
        """Raises UserError, and Unreachable where nobody answers."""
        import obstore

        self.api, self.where = obstore, where
        with answering():
            self.store = opened(where, patient=False)
            next(iter(self.names("ac")), None)  # a bucket that isn't there is no empty one
            self.store = opened(where, patient=True)

    def names(self, prefix: str) -> Iterator[str]:
        """Every name below a prefix, as it is."""
        for some in self.api.list(self.store, prefix=prefix):
            yield from (str(each["path"]) for each in some)

    def keys(self) -> Iterator[str]:
        """The keys of all entries; a name that isn't an entry's is passed over. Raises Unreachable."""
        with answering():
            for name in self.names("ac"):
                if found := ENTRY.fullmatch(name):
                    yield found[2]

    def entry(self, key: str) -> bytes | None:
        """The bytes of an entry, or None. Raises Refused, Unreachable."""
        with answering():
            try:
                found = self.api.get(self.store, named(key))
            except FileNotFoundError:
                return None
            if found.meta["size"] > MOST_BYTES:
                raise Refused("it is too large for an entry")
            return bytes(found.bytes())

    def put_entry(self, key: str, text: bytes, over: bool = False) -> bool:
        """Write an entry unless there is one (over: in its place); whether it was written. Raises
        Unreachable.
        """
        from obstore.exceptions import AlreadyExistsError

        with answering():
            try:
                self.api.put(
                    self.store,
                    named(key),
                    text,
                    mode="overwrite" if over else "create",
                    use_multipart=False,
                )
            except AlreadyExistsError:
                return False
        return True

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether there is a blob of this name and size. Raises Unreachable."""
        return self.size(blob(digest)) == size

    def has_entry(self, key: str) -> bool:
        """Whether there is an entry. Raises Unreachable."""
        return self.size(named(key)) is not None

    def size(self, name: str) -> int | None:
        """An object's size in bytes; None where there is none. Raises Unreachable."""
        with answering():
            try:
                return int(self.api.head(self.store, name)["size"])
            except FileNotFoundError:
                return None

    def put_blob(self, path: Path, digest: str, progress: Progress) -> None:
        """Send a file, in parts where it is large. Raises Refused where it isn't what its name
        says, Unreachable.
        """
        with answering():
            if path.stat().st_size <= PART:
                data = path.read_bytes()
                matched(hashlib.sha256(data).hexdigest(), digest)
                self.api.put(self.store, blob(digest), data, use_multipart=False)
                progress(len(data))
            else:
                self.api.put(
                    self.store,
                    blob(digest),
                    sent(path, digest, progress),
                    chunk_size=PART,
                    max_concurrency=AT_ONCE,
                )

    def get_blob(self, digest: str, size: int, target: Path, progress: Progress) -> None:
        """Receive a blob into a file, several parts at once. Raises Refused where it isn't what its
        name says, Unreachable.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        hashed = hashlib.sha256()
        with answering(), ThreadPoolExecutor(AT_ONCE) as pool, target.open("wb") as out:
            starts = iter(range(0, size, PART))
            waiting: list[Future[Any]] = []
            while True:
                while len(waiting) < AT_ONCE and (start := next(starts, None)) is not None:
                    waiting.append(pool.submit(self.part, digest, start, min(start + PART, size)))
                if not waiting:
                    break
                data = waiting.pop(0).result()
                hashed.update(data)
                out.write(data)
                progress(len(data))
        matched(hashed.hexdigest(), digest)

    def part(self, digest: str, start: int, end: int) -> Any:
        """Some bytes of a blob. Raises Refused where they aren't there."""
        try:
            data: Any = self.api.get_range(self.store, blob(digest), start=start, end=end)
        except FileNotFoundError:
            raise Refused(f"its blob {digest[:12]} isn't there") from None
        except self.api.exceptions.BaseError:
            if self.api.head(self.store, blob(digest))["size"] > start:
                raise
            data = b""  # asking for what lies behind the end is an error like any other
        if len(data) != end - start:
            raise Refused(f"its blob {digest[:12]} is too short")
        return data


def blob(digest: str) -> str:
    """The name of a blob."""
    return f"cas/{digest[:2]}/{digest}"


def named(key: str) -> str:
    """The name of an entry."""
    return f"ac/{key[:2]}/{key}.json"


def matched(found: str, digest: str) -> None:
    """Raises Refused unless the two are the same."""
    if found != digest:
        raise Refused(f"the blob {digest[:12]} is damaged: its SHA-256 is {found[:12]}")


def sent(path: Path, digest: str, progress: Progress) -> Iterator[bytes]:
    """A file's parts, hashed on the way; raising in the end makes obstore abandon the upload."""
    hashed = hashlib.sha256()
    with path.open("rb") as handle:
        while data := handle.read(PART):
            hashed.update(data)
            progress(len(data))
            yield data
    matched(hashed.hexdigest(), digest)
