"""Move results between the cache and the shared store: pull before a step is built, push after it.

Blobs go up before the entry that names them. The entry is put on the condition that there is none,
so the first writer wins; who comes second takes over the first one's result, so that steps which
aren't reproducible to the byte converge. Whatever is wrong with the shared store costs a line,
never the study: without it steps are built.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from sintra.core.artifact import Artifact, File
from sintra.core.errors import UserError, disk_error
from sintra.core.stage import Stage
from sintra.core.text import printable_line
from sintra.store.entries import Entry, StepRecord
from sintra.store.files import unique_name
from sintra.store.remote.address import Address, parse_address, read_hmac_key
from sintra.store.remote.objects import OBSTORE_MISSING, Forbidden, ObjectStore, Unreachable
from sintra.store.remote.shared_entries import (
    SHAREABLE_FAILURES,
    RemoteDataError,
    format_shared_entry,
    holds_code,
    parse_shared_entry,
    shared_outcome,
)
from sintra.store.store import Accept, Outcome, Store, any_outcome

Say = Callable[[str], None]
PushResult = Literal[
    "pushed",  # the shared store has it now
    "there",  # it had the same before
    "lost",  # another machine was faster with another result, which the cache has now too
    "kept",  # not shared: nothing there, read-only, unreachable, a failure of this machine's own
]
PROGRESS_S = 10.0  # seconds between two lines about a large file


def print_to_stderr(text: str) -> None:
    """Print a line on stderr."""
    print(printable_line(text), file=sys.stderr, flush=True)


def is_shareable(entry: Entry, secret: bytes | None) -> bool:
    """Return whether an entry says something of its action, not only of this machine.

    What readers would run is shared with an HMAC only, since none would take it otherwise.
    """
    if "action" not in entry or (secret is None and holds_code(entry)):
        return False
    return "failure" not in entry or entry["failure"].get("kind") in SHAREABLE_FAILURES


class TransferMeter:
    """Bytes moved of one file; of a large one it prints every ten seconds how far it is."""

    def __init__(self, title: str, size: int) -> None:
        self.title = title  # what the line says is being moved
        self.size = size  # bytes
        self.moved = 0  # bytes
        self.printed = time.monotonic()  # when the last line was printed, seconds

    def __call__(self, count: int) -> None:
        """Count so many bytes more."""
        self.moved += count
        if time.monotonic() - self.printed > PROGRESS_S and self.moved < self.size:
            self.printed = time.monotonic()
            percent = 100 * self.moved // self.size
            print_to_stderr(f"{self.title}: {percent} % of {self.size / 1e6:.0f} MB")


class SharedStore:
    """A shared store as a study uses it.

    Nothing is opened, and obstore not imported, before something is asked of it.
    """

    def __init__(self, address: Address, say: Say = print_to_stderr) -> None:
        """Raises UserError where the key of the HMAC is too short."""
        self.address = address
        self.say = say  # called with each line about what is wrong
        self.secret = read_hmac_key()
        self.writable = address.writable  # no longer once a write was refused
        self.unusable_because = ""  # why it isn't asked any more; "" while it is
        self.pulled_bytes = 0
        self.pushed_bytes = 0
        self._objects: ObjectStore | None = None
        self._damaged_blobs: set[str] = set()  # digests of blobs that were not what they should be
        self._present_keys: set[str] = set()  # keys that are known to be there

    @property
    def objects(self) -> ObjectStore:
        """Return the remote store, opened. Raises UserError, Unreachable."""
        if self.unusable_because:
            raise Unreachable(self.unusable_because)
        if self._objects is None:
            self._objects = ObjectStore(self.address)
        return self._objects

    def shares(self, stage: Stage) -> bool:
        """Return whether what a stage makes is exchanged at all: code only with an HMAC."""
        return self.secret is not None or not stage.executed

    def _give_up(self, error: Unreachable) -> None:
        """Go on without it, or without writing to it, and say so once."""
        if isinstance(error, Forbidden) and self._objects and self.writable:
            self.writable = False
            self.say(
                f"the shared store {self.address.url} can't be written to, going on without "
                f"pushing: {error}"
            )
        elif not self.unusable_because:
            self.unusable_because = str(error)
            self.say(
                f"the shared store {self.address.url} can't be used, going on without it: {error}"
            )

    def pull(
        self, store: Store, key: str, name: str = "", accept: Accept = any_outcome
    ) -> Outcome | None:
        """Take the outcome of a key over into the cache and return it.

        Return None where the shared store has nothing that passes the checks. name: the step's, for
        messages; accept: whether what the cache has can be the step's. Raises Transient where the
        disk is full, UserError without obstore.
        """
        if self.unusable_because:
            return None
        try:
            with store.lock(key):
                return store.lookup(key, accept) or self._fetch(store, key, name)
        except RemoteDataError as error:
            # it is built, and that takes its place
            self.say(f"refused {name or key[:12]} of the shared store: {error}")
        except Unreachable as error:
            self._give_up(error)
        return None

    def _fetch(self, store: Store, key: str, name: str) -> Outcome | None:
        """Take an outcome over in place of the cache's, with the key's lock held.

        Raises RemoteDataError, Unreachable, Transient.
        """
        raw = self.objects.get_entry(key)
        if raw is None:
            return None
        entry = parse_shared_entry(raw, key, self.secret)
        outcome = shared_outcome(entry)
        self._present_keys.add(key)
        if isinstance(outcome, Artifact):
            self._fetch_blobs(store, key, outcome, name)
        store.forget(key)
        return store.publish(key, outcome, _step_record(entry))

    def _fetch_blobs(self, store: Store, key: str, artifact: Artifact, name: str) -> None:
        """Get the blobs that the cache lacks. Raises RemoteDataError, Unreachable, Transient."""
        folder = store.folder("tmp") / f"{key}.{unique_name()}"
        folder.mkdir()
        missing = {f.sha256: f for f in artifact.files if not store.use_blob(f.sha256, f.size)}
        try:
            for digest, file in missing.items():
                meter = TransferMeter(f"pulling {name or key[:12]}", file.size)
                try:
                    self.objects.get_blob(digest, file.size, folder / digest, meter)
                except RemoteDataError:
                    self._damaged_blobs.add(digest)
                    raise
                store.put_hashed_file(folder / digest, file.size, digest)
                self.pulled_bytes += file.size
        except OSError as error:
            raise disk_error(error, store.root) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def push_inputs(self, store: Store, names: dict[str, str]) -> None:
        """Push what a step is made of, where the others don't have it yet.

        It was in the cache before there was a shared store, and others would have to build it.
        names: key -> name of each step above.
        """
        try:
            for key in [k for k in names if k not in self._present_keys]:
                if self.writable and not self.unusable_because and not self.objects.has_entry(key):
                    self.push(store, key, names[key], adopt=False)
                self._present_keys.add(key)
        except Unreachable as error:
            self._give_up(error)

    def push(self, store: Store, key: str, name: str = "", adopt: bool = True) -> PushResult:
        """Give the cache's outcome of a key to the others, and return what came of it.

        name: the step's, for messages. adopt: take over another machine's result where that was
        faster.
        """
        entry = store.read_entry(key)
        if (
            not self.writable
            or self.unusable_because
            or entry is None
            or not is_shareable(entry, self.secret)
        ):
            return "kept"
        try:
            self._present_keys.add(key)
            return self._push_entry(store, entry, name, adopt)
        except RemoteDataError as error:
            self.say(f"not shared: {name or key[:12]}: {error}")
        except Unreachable as error:
            self._give_up(error)
        except OSError as error:
            self.say(f"not shared: {name or key[:12]}: {error.strerror}")
        return "kept"

    def _push_entry(self, store: Store, entry: Entry, name: str, adopt: bool) -> PushResult:
        """Send an entry's blobs, then the entry. Raises RemoteDataError, Unreachable, OSError."""
        key = entry["key"]
        text = format_shared_entry(entry, self.secret)
        self._push_blobs(store, entry, name)
        if self.objects.put_entry(key, text):
            return "pushed"
        try:
            with store.lock(key):
                raw = self.objects.get_entry(key) or b""
                theirs = shared_outcome(parse_shared_entry(raw, key, self.secret))
                ours = shared_outcome(parse_shared_entry(text, key, self.secret))
                if not adopt or theirs == ours:
                    return "there"
                self._fetch(store, key, name)
                return "lost"
        except RemoteDataError as error:
            self.say(f"replaced {name or key[:12]} in the shared store: {error}")
            self.objects.put_entry(key, text, overwrite=True)
            return "pushed"

    def _push_blobs(self, store: Store, entry: Entry, name: str) -> None:
        """Send the blobs of an entry that the remote store lacks or holds damaged.

        Raises RemoteDataError, Unreachable, OSError.
        """
        for file in {row["sha256"]: File(**row) for row in entry.get("files", ())}.values():
            damaged = file.sha256 in self._damaged_blobs
            if damaged or not self.objects.has_blob(file.sha256, file.size):
                meter = TransferMeter(f"pushing {name}", file.size)
                self.objects.put_blob(store.blob_path(file.sha256), file.sha256, meter)
                self._damaged_blobs.discard(file.sha256)
                self.pushed_bytes += file.size


def _step_record(entry: Entry) -> StepRecord:
    """Return what an entry says about its step, without the key and the outcome."""
    others = {k: v for k, v in entry.items() if k not in ("key", "files", "failure")}
    return cast(StepRecord, others)


def open_shared_store(root: Path, remote: str, mode: str) -> SharedStore | None:
    """Return the shared store that `store.remote` and `store.mode` name; None where none is.

    Raises UserError. root: what a relative path starts from.
    """
    address = parse_address(root, remote, mode)
    if address is None:
        return None
    if find_spec("obstore") is None:
        raise UserError(OBSTORE_MISSING)
    return SharedStore(address)


def require_shared_store(shared: SharedStore | None, write: bool) -> SharedStore:
    """Return the shared store of a command that can't do without. Raises UserError."""
    if shared is None:
        raise UserError(
            "no shared store is named: add store.remote=s3://bucket/prefix, gs://, az:// or a "
            "folder"
        )
    if write and not shared.writable:
        raise UserError("store.mode=readonly: nothing is pushed; give store.mode=readwrite")
    return shared
