"""Get, put and list objects in a bucket or a folder, each checked.

It goes through obstore (https://developmentseed.org/obstore/). What is read is hashed on the way,
and so is what is sent: a blob that isn't what its name says is neither stored nor shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from sintra.core.errors import UserError
from sintra.store.files import make_folder, open_regular, put_aside
from sintra.store.remote.address import Address
from sintra.store.remote.shared_entries import MAX_ENTRY_BYTES, RemoteDataError

if TYPE_CHECKING:
    from concurrent.futures import Future

OBSTORE_MISSING = "a shared store needs obstore: pip install -c constraints.txt -e '.[remote]'"
PART_BYTES = 8 << 20  # of a large blob, moved at once
PARTS_AT_ONCE = 4
ENTRY_NAME = re.compile(r"ac/([0-9a-f]{2})/(\1[0-9a-f]{62})\.json")
Progress = Callable[[int], None]  # called with the bytes that have just been moved


class Unreachable(Exception):
    """The remote store doesn't answer, or not to us; the message is one line without secrets."""


class Forbidden(Unreachable):
    """The remote store answers, but doesn't let us, or can't do what was asked."""


def open_obstore(address: Address, patient: bool) -> Any:
    """Open obstore's store at an address. Raises UserError without obstore.

    patient: with retries; without, it is soon clear whether anybody answers.
    """
    try:
        from obstore.store import LocalStore, from_url  # optional package
    except ImportError:
        raise UserError(OBSTORE_MISSING) from None
    if address.folder:
        return LocalStore(address.folder, mkdir=address.writable)
    http = {
        "connect_timeout": "3s",
        "read_timeout": "30s",
        "timeout": "10m" if patient else "10s",
        "allow_http": allows_plain_http(),
    }
    retry = {
        "max_retries": 5 if patient else 1,
        "retry_timeout": timedelta(seconds=40 if patient else 5),
    }
    options: Any = {"client_options": http, "retry_config": retry}
    return from_url(address.url, **options)


def allows_plain_http() -> bool:
    """Return whether the endpoint may be spoken to without TLS.

    It may on loopback, or where AWS_ALLOW_HTTP says so.
    """
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return (
        urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1")
        or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
    )


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise obstore's errors as Unreachable or Forbidden, in one line.

    That something isn't there, or is there already, passes unchanged.
    """
    from obstore.exceptions import (  # optional package
        AlreadyExistsError,
        BaseError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    denials = (PermissionDeniedError, UnauthenticatedError, NotSupportedError, PermissionError)
    try:
        yield
    except AlreadyExistsError:
        raise
    except (
        BaseError,
        PermissionError,
        NotADirectoryError,
        ValueError,  # a name that is not a path
    ) as error:
        line = re.sub(r"\?\S*", "", str(error).split("\n")[0])[:240]
        raise (Forbidden if isinstance(error, denials) else Unreachable)(line) from None


class ObjectStore:
    """The two key spaces of a remote store: `ac/ab/<key>.json` and `cas/ab/<sha256>`."""

    def __init__(self, address: Address) -> None:
        """Open it. Raises UserError without obstore, Unreachable where nobody answers."""
        import obstore  # optional package

        self.api = obstore
        self.folder = address.folder  # None where it is a bucket
        with translate_errors():
            self.store = open_obstore(address, patient=False)
            next(iter(self.list_names("ac")), None)  # a bucket that isn't there is no empty one
            self.store = open_obstore(address, patient=True)

    def list_names(self, prefix: str | None) -> Iterator[str]:
        """Yield every name below a prefix, unchecked."""
        if self.folder is not None:
            yield from folder_names(self.folder, prefix or "")
            return
        for batch in self.api.list(self.store, prefix=prefix):
            yield from (str(each["path"]) for each in batch)

    def list_keys(self) -> Iterator[str]:
        """Yield the keys of all entries; other names are passed over. Raises Unreachable."""
        with translate_errors():
            for name in self.list_names("ac"):
                if match := ENTRY_NAME.fullmatch(name):
                    yield match[2]

    def get_entry(self, key: str) -> bytes | None:
        """Return the bytes of an entry, or None. Raises RemoteDataError, Unreachable."""
        if self.folder is not None:
            return read_shared_file(self.folder / entry_name(key), MAX_ENTRY_BYTES)
        with translate_errors():
            try:
                response = self.api.get(self.store, entry_name(key))
            except FileNotFoundError:
                return None
            if response.meta["size"] > MAX_ENTRY_BYTES:
                raise RemoteDataError("it is too large for an entry")
            return bytes(response.bytes())

    def put_entry(self, key: str, text: bytes, overwrite: bool = False) -> bool:
        """Write an entry unless there is one; return whether it was written.

        overwrite: take the place of one that is there. Raises Unreachable.
        """
        from obstore.exceptions import AlreadyExistsError  # optional package

        self._make_way(entry_name(key))
        with translate_errors():
            try:
                self.api.put(
                    self.store,
                    entry_name(key),
                    text,
                    mode="overwrite" if overwrite else "create",
                    use_multipart=False,
                )
            except AlreadyExistsError:
                return False
        return True

    def _make_way(self, name: str) -> None:
        """Put aside in a shared folder what has the name of an object and is no file.

        The same goes for what is no folder where one has to be. Raises Unreachable.
        """
        if self.folder is None:
            return
        try:
            make_folder((self.folder / name).parent)
            path = self.folder / name
            if os.path.lexists(path) and regular_size(path) is None:
                put_aside(path)
        except OSError as error:
            raise Forbidden(f"{self.folder}: {error.strerror}") from None

    def has_blob(self, digest: str, size: int) -> bool:
        """Return whether there is a blob of this name and size. Raises Unreachable."""
        return self._object_size(blob_name(digest)) == size

    def has_entry(self, key: str) -> bool:
        """Return whether there is an entry. Raises Unreachable."""
        return self._object_size(entry_name(key)) is not None

    def _object_size(self, name: str) -> int | None:
        """Return an object's size in bytes; None where there is none. Raises Unreachable."""
        if self.folder is not None:
            return regular_size(self.folder / name)
        with translate_errors():
            try:
                return int(self.api.head(self.store, name)["size"])
            except FileNotFoundError:
                return None

    def put_blob(self, path: Path, digest: str, progress: Progress) -> None:
        """Send a file, in parts where it is large.

        Raises RemoteDataError where it isn't what its name says, Unreachable.
        """
        self._make_way(blob_name(digest))
        with translate_errors():
            if path.stat().st_size <= PART_BYTES:
                data = path.read_bytes()
                check_digest(hashlib.sha256(data).hexdigest(), digest)
                self.api.put(self.store, blob_name(digest), data, use_multipart=False)
                progress(len(data))
            else:
                self.api.put(
                    self.store,
                    blob_name(digest),
                    read_parts(path, digest, progress),
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )

    def get_blob(self, digest: str, size: int, target: Path, progress: Progress) -> None:
        """Receive a blob into a file, several parts at once.

        Raises RemoteDataError where it isn't what its name says, Unreachable.
        """
        from concurrent.futures import ThreadPoolExecutor  # not on the no-op path

        if self.folder is not None:
            copy_shared_file(self.folder / blob_name(digest), digest, size, target, progress)
            return
        hashed = hashlib.sha256()
        with (
            translate_errors(),
            ThreadPoolExecutor(PARTS_AT_ONCE) as pool,
            target.open("wb") as out,
        ):
            starts = iter(range(0, size, PART_BYTES))
            waiting: list[Future[bytes]] = []
            while True:
                while len(waiting) < PARTS_AT_ONCE and (start := next(starts, None)) is not None:
                    end = min(start + PART_BYTES, size)
                    waiting.append(pool.submit(self._get_part, digest, start, end))
                if not waiting:
                    break
                data = waiting.pop(0).result()
                hashed.update(data)
                out.write(data)
                progress(len(data))
        check_digest(hashed.hexdigest(), digest)

    def _get_part(self, digest: str, start: int, end: int) -> bytes:
        """Return the bytes of a blob from start to end (exclusive).

        Raises RemoteDataError where they aren't there.
        """
        try:
            data = bytes(self.api.get_range(self.store, blob_name(digest), start=start, end=end))
        except FileNotFoundError:
            raise RemoteDataError(f"its blob {digest[:12]} isn't there") from None
        except self.api.exceptions.BaseError:
            if self.api.head(self.store, blob_name(digest))["size"] > start:
                raise
            data = b""  # asking for what lies behind the end is an error like any other
        if len(data) != end - start:
            raise RemoteDataError(f"its blob {digest[:12]} is too short")
        return data


def folder_names(folder: Path, prefix: str) -> Iterator[str]:
    """Yield the names of files below a prefix of a shared folder, at most two folders deep.

    What others put there under other names is passed over. Raises Unreachable where the folder
    can't be listed.
    """
    try:
        for path in sorted((folder / prefix).glob("*/*")):
            name = path.relative_to(folder).as_posix()
            if name.isprintable():
                yield name
    except OSError as error:
        raise Unreachable(f"{folder}: {error.strerror}") from None


def open_shared_file(path: Path) -> BinaryIO | None:
    """Open a file of a shared folder: no link, no FIFO, which would wait; None where it is missing.

    Raises RemoteDataError for something else of that name, Unreachable.
    """
    try:
        return open_regular(path, follow=False)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise Forbidden(f"{path}: {error.strerror}") from None
    except OSError:
        raise RemoteDataError("it is not a file") from None


def read_shared_file(path: Path, most: int) -> bytes | None:
    """Return a file of a shared folder; None where it is missing.

    Raises RemoteDataError for one that is larger than `most` bytes, Unreachable.
    """
    handle = open_shared_file(path)
    if handle is None:
        return None
    with handle:
        data = handle.read(most + 1)
    if len(data) > most:
        raise RemoteDataError("it is too large for an entry")
    return data


def copy_shared_file(path: Path, digest: str, size: int, target: Path, progress: Progress) -> None:
    """Copy a blob of a shared folder, hashed on the way.

    Raises RemoteDataError where it isn't what its name says, Unreachable.
    """
    hashed, source = hashlib.sha256(), open_shared_file(path)
    if source is None:
        raise RemoteDataError(f"its blob {digest[:12]} isn't there")
    with source, target.open("wb") as out:
        left = size
        while left and (data := source.read(min(PART_BYTES, left))):
            hashed.update(data)
            out.write(data)
            progress(len(data))
            left -= len(data)
    if left:
        raise RemoteDataError(f"its blob {digest[:12]} is too short")
    check_digest(hashed.hexdigest(), digest)


def regular_size(path: Path) -> int | None:
    """Return a file's size in bytes; None where there is none, or no file, of this name."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def blob_name(digest: str) -> str:
    """Return the object name of a blob."""
    return f"cas/{digest[:2]}/{digest}"


def entry_name(key: str) -> str:
    """Return the object name of an entry."""
    return f"ac/{key[:2]}/{key}.json"


def check_digest(computed: str, digest: str) -> None:
    """Raise RemoteDataError unless a blob's computed SHA-256 is that of its name."""
    if computed != digest:
        raise RemoteDataError(f"the blob {digest[:12]} is damaged: its SHA-256 is {computed[:12]}")


def read_parts(path: Path, digest: str, progress: Progress) -> Iterator[bytes]:
    """Yield a file's parts, hashed on the way.

    Raises RemoteDataError at the end where it isn't what its name says; obstore then abandons the
    upload.
    """
    hashed = hashlib.sha256()
    with path.open("rb") as handle:
        while data := handle.read(PART_BYTES):
            hashed.update(data)
            progress(len(data))
            yield data
    check_digest(hashed.hexdigest(), digest)
