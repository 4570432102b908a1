"""A cache behind which others' results lie: pulled before a step is built, pushed after it.

Blobs go up before the entry that names them; the entry is put on the condition that there is none,
so the first writer wins, and who comes second takes over the first one's result, so that steps
which aren't reproducible to the byte converge. Whatever is wrong with the remote store costs a
line, never the study: without it steps are built.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sintra.core.errors import UserError, disk_error
from sintra.core.types import Artifact, File
from sintra.store.files import unique
from sintra.store.remote.address import Address, secret
from sintra.store.remote.entries import KINDS, Refused, outcome, parsed, sealed
from sintra.store.remote.objects import LACKING, Forbidden, Objects, Unreachable
from sintra.store.store import Outcome, Store

Say = Callable[[str], None]
Pushed = Literal["pushed", "there", "lost", "kept"]
OFTEN_S = 10.0


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def shareable(data: dict[str, Any]) -> bool:
    """Whether an entry of the cache says something of its action, not only of this machine."""
    return "action" in data and ("failure" not in data or data["failure"].get("kind") in KINDS)


class Meter:
    """Bytes moved; a large file says every ten seconds how far it is."""

    def __init__(self, what: str, size: int) -> None:
        self.what, self.size, self.moved, self.told = what, size, 0, time.monotonic()

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        self.moved += count
        if time.monotonic() - self.told > OFTEN_S and self.moved < self.size:
            self.told = time.monotonic()
            say(f"{self.what}: {100 * self.moved // self.size} % of {self.size / 1e6:.0f} MB")


class Shared:
    """A remote store as a study uses it. Nothing is opened, and obstore not imported, before
    something is asked.
    """

    def __init__(self, where: Address, say: Say = say) -> None:
        """Raises UserError where the key of the HMAC is none."""
        self.where, self.say, self.secret = where, say, secret()
        self.writable = where.writable
        self.why_not = ""  # why it isn't asked any more
        self.moved = {"down": 0, "up": 0}
        self._objects: Objects | None = None
        self._bad: set[str] = set()  # blobs that were not what they should be
        self._there: set[str] = set()  # keys that are known to be there

    @property
    def objects(self) -> Objects:
        """The remote store. Raises UserError, Unreachable."""
        if self.why_not:
            raise Unreachable(self.why_not)
        if self._objects is None:
            self._objects = Objects(self.where)
        return self._objects

    def down(self, error: Unreachable) -> None:
        """Go on without it, or without writing to it, and say so once."""
        if isinstance(error, Forbidden) and self._objects and self.writable:
            self.writable = False
            self.say(
                f"the shared store {self.where.url} can't be written to, going on without "
                f"pushing: {error}"
            )
        elif not self.why_not:
            self.why_not = str(error)
            self.say(
                f"the shared store {self.where.url} can't be used, going on without it: {error}"
            )

    def pull(self, store: Store, key: str, name: str = "") -> Outcome | None:
        """What the remote store has for a key, now in the cache too; None where it has nothing that
        can be believed.

        Raises Transient where the disk is full, UserError without obstore.
        """
        if self.why_not:
            return None
        try:
            with store.lock(key):
                return store.lookup(key) or self.fetch(store, key, name)
        except Refused as error:
            self.say(
                f"refused {name or key[:12]} of the shared store: {error}"
            )  # it is built, and that takes its place
        except Unreachable as error:
            self.down(error)
        return None

    def fetch(self, store: Store, key: str, name: str) -> Outcome | None:
        """The same with the key's lock held, without looking into the cache. Raises Refused,
        Unreachable, Transient.
        """
        raw = self.objects.entry(key)
        if raw is None:
            return None
        data = parsed(raw, key, self.secret)
        found = outcome(data)
        self._there.add(key)
        if isinstance(found, Artifact):
            self.blobs(store, key, found, name)
        store.forget(key)
        return store.publish(
            key, found, {k: v for k, v in data.items() if k not in ("key", "files", "failure")}
        )

    def blobs(self, store: Store, key: str, found: Artifact, name: str) -> None:
        """Get the blobs that the cache lacks. Raises Refused, Unreachable, Transient."""
        folder = store.folder("tmp") / f"{key}.{unique()}"
        folder.mkdir()
        try:
            for digest, file in {f.sha256: f for f in found.files if not store.sound(f)}.items():
                meter = Meter(f"pulling {name or key[:12]}", file.size)
                try:
                    self.objects.get_blob(digest, file.size, folder / digest, meter)
                except Refused:
                    self._bad.add(digest)
                    raise
                store.keep(folder / digest, file.size, digest)
                self.moved["down"] += file.size
        except OSError as error:
            raise disk_error(error, store.root) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def complete(self, store: Store, above: dict[str, str]) -> None:
        """Give what a step is made of (key -> name) to the others too, where it was in the cache
        before there was a shared store: else they'd have to build that.
        """
        try:
            for key in [k for k in above if k not in self._there]:
                if self.writable and not self.why_not and not self.objects.has_entry(key):
                    self.push(store, key, above[key], adopt=False)
                self._there.add(key)
        except Unreachable as error:
            self.down(error)

    def push(self, store: Store, key: str, name: str = "", adopt: bool = True) -> Pushed:
        """Give the cache's result of a key to the others.

        "there": they have the same; "lost": somebody was faster with another, which the cache has
        now too; "kept": not given (nothing there, read-only, unreachable, a failure of this
        machine's own). adopt: whether to take over another's.
        """
        data = store.record(key)
        if not self.writable or self.why_not or data is None or not shareable(data):
            return "kept"
        try:
            self._there.add(key)
            return self.send(store, key, data, name, adopt)
        except Refused as error:
            self.say(f"not shared: {name or key[:12]}: {error}")
        except Unreachable as error:
            self.down(error)
        except OSError as error:
            self.say(f"not shared: {name or key[:12]}: {error.strerror}")
        return "kept"

    def send(self, store: Store, key: str, data: dict[str, Any], name: str, adopt: bool) -> Pushed:
        """The same, unguarded. Raises Refused, Unreachable, OSError."""
        text = sealed(data, self.secret)
        self.upload(store, data, name)
        if self.objects.put_entry(key, text):
            return "pushed"
        try:
            with store.lock(key):
                theirs = parsed(self.objects.entry(key) or b"", key, self.secret)
                if not adopt or outcome(theirs) == outcome(parsed(text, key, self.secret)):
                    return "there"
                self.fetch(store, key, name)
                return "lost"
        except Refused as error:
            self.say(f"replaced {name or key[:12]} in the shared store: {error}")
            self.objects.put_entry(key, text, over=True)
            return "pushed"

    def upload(self, store: Store, data: dict[str, Any], name: str) -> None:
        """Send the blobs of an entry that the remote store lacks or holds damaged. Raises Refused,
        Unreachable, OSError.
        """
        for file in {f["sha256"]: File(**f) for f in data.get("files", ())}.values():
            if file.sha256 in self._bad or not self.objects.has_blob(file.sha256, file.size):
                self.objects.put_blob(
                    store.blob(file.sha256), file.sha256, Meter(f"pushing {name}", file.size)
                )
                self._bad.discard(file.sha256)
                self.moved["up"] += file.size


_known: dict[Address, Shared] = {}


def shared(root: Path, conf: dict[str, Any]) -> Shared | None:
    """The shared store that the options `store.*` name, the same for all studies of a run. Raises
    UserError.
    """
    from sintra.store.remote.address import address

    where = address(root, conf)
    if where is None:
        return None
    if find_spec("obstore") is None:
        raise UserError(LACKING)
    return _known.setdefault(where, Shared(where))


def required(found: Shared | None, write: bool) -> Shared:
    """The shared store of a command that can't do without. Raises UserError."""
    if found is None:
        raise UserError(
            "no shared store is named: add store.remote=s3://bucket/prefix, gs://, az:// or a "
            "folder"
        )
    if write and not found.writable:
        raise UserError("store.mode=readonly: nothing is pushed; give store.mode=readwrite")
    return found
