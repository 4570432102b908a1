"""The store: an action cache (AC) from key to outcome, and a content-addressed store (CAS) of
read-only blobs.

Publishing is atomic: hash a file, fsync it, move it into the CAS and fsync the folder, then write
the AC entry by an exclusive link, so that the first writer wins. Freshness is decided here and
nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from sintra.core.artifact import Artifact, Failure, File
from sintra.core.errors import disk_error
from sintra.store import locks
from sintra.store.entries import (
    Entry,
    FailureRow,
    StepRecord,
    file_row,
    format_entry,
    parse_entry,
)
from sintra.store.files import (
    fsync_folder,
    hash_file,
    is_odd,
    make_folder,
    move_to_quarantine,
    read_regular,
    remove_path,
    unique_name,
)

LOOKS = 3  # times that a publication is looked at, while a gc beside it deletes what it needs
Outcome = Artifact | Failure
Accept = Callable[[Outcome], bool]  # whether an outcome can be that of the key's stage


def any_outcome(outcome: Outcome) -> bool:
    """Accept every outcome: what is asked by somebody who doesn't know the stage."""
    return True


class Store:
    """The cache folder. Every method is safe to call from several processes at once."""

    def __init__(self, root: Path, lock_kind: str = "auto") -> None:
        self.root = root
        self.lock_kind = lock_kind  # how its locks are held (sintra.store.locks.KINDS)
        self.failed_this_run = False  # whether `fail_this_run` was called
        self._outcomes: dict[str, Outcome] = {}  # by key: what was looked up before

    def __repr__(self) -> str:
        return f"Store({self.root})"

    def folder(self, name: str) -> Path:
        """Return a subfolder, made where it is missing."""
        return make_folder(self.root / name, 0o700)

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with this SHA-256 lies or would lie."""
        return self.root / "cas" / digest[:2] / digest

    def entry_path(self, key: str) -> Path:
        """Return where the AC entry of this key lies or would lie."""
        return self.root / "ac" / key[:2] / f"{key}.json"

    def read_entry(self, key: str) -> Entry | None:
        """Read the AC entry of a key without a look at its blobs; None where there is none."""
        parsed = self._parse_entry(key)
        return None if parsed is None else parsed[0]

    def _parse_entry(self, key: str) -> tuple[Entry, Outcome] | None:
        """Read the AC entry of a key, and the outcome that it names; None where there is none."""
        try:
            # pathlib takes three times as long, and a no-op does this for every step
            return parse_entry(read_regular(f"{self.root}/ac/{key[:2]}/{key}.json"), key)
        except PermissionError:
            raise
        except OSError:  # missing, or something that is no file
            return None

    def read_entries(self) -> Iterator[Entry]:
        """Read every AC entry that isn't damaged, in the order of their keys."""
        for path in sorted((self.root / "ac").glob("??/*.json")):
            entry = self.read_entry(path.stem)
            if entry is not None:
                yield entry

    def lookup(self, key: str, accept: Accept = any_outcome) -> Outcome | None:
        """Return what this action produced.

        Return None where that is unknown, one of its blobs is missing or has the wrong size, or
        `accept` says that its stage doesn't make such a thing.
        """
        if key in self._outcomes:
            return self._outcomes[key] if accept(self._outcomes[key]) else None
        parsed = self._parse_entry(key)
        if parsed is None:
            return None
        _, outcome = parsed
        if isinstance(outcome, Artifact) and not all(self.has_blob(f) for f in outcome.files):
            return None
        if not accept(outcome):
            return None
        self._outcomes[key] = outcome
        return outcome

    def has_blob(self, file: File) -> bool:
        """Return whether a file's blob is there with the right size."""
        try:
            path = f"{self.root}/cas/{file.sha256[:2]}/{file.sha256}"
            status = os.stat(path)  # noqa: PTH116 (as above)
            return status.st_size == file.size and stat.S_ISREG(status.st_mode)
        except OSError:
            return False

    def put_file(self, path: Path) -> tuple[int, str]:
        """Move a file into the CAS; return its size and SHA-256.

        Raises Transient when the disk is full.
        """
        try:
            return self.put_hashed_file(path, path.stat().st_size, hash_file(path))
        except OSError as error:
            raise disk_error(error, self.root) from error

    def put_hashed_file(self, path: Path, size: int, digest: str) -> tuple[int, str]:
        """Move a file whose size and SHA-256 are known into the CAS; return the two.

        Where its blob is there already, that counts as young from now on, so that `doit gc` leaves
        it alone, and the file stays where it is. Raises Transient when the disk is full.
        """
        try:
            if self.use_blob(digest, size):
                return size, digest
            target = self.blob_path(digest)
            make_folder(target.parent)
            if is_odd(target):
                self.quarantine(target)
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            path.chmod(0o444)
            os.utime(path)  # a stage may have written it hours ago
            os.replace(path, target)
            fsync_folder(target.parent)
            return size, digest
        except OSError as error:
            raise disk_error(error, self.root) from error

    def use_blob(self, digest: str, size: int) -> bool:
        """Return whether there is a blob of this size, which counts as young from now on."""
        path = self.blob_path(digest)
        try:
            with contextlib.suppress(PermissionError):  # somebody else's, in a cache that is shared
                os.utime(path)
            status = path.stat()
            return status.st_size == size and stat.S_ISREG(status.st_mode)
        except OSError:
            return False

    def put_tree(self, folder: Path) -> Artifact:
        """Move every regular file below a folder into the CAS. Raises Transient."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            name = path.relative_to(folder).as_posix()
            files.append(File(name, *self.put_file(path)))
        return Artifact(tuple(files))

    def publish(
        self,
        key: str,
        outcome: Outcome,
        record: StepRecord,
        accept: Accept = any_outcome,
        folder: Path | None = None,
    ) -> Outcome:
        """Write the AC entry unless there is a sound one that is accepted.

        Return the outcome that counts, which is the first writer's. folder: what `put_tree` took
        the artifact from; a blob that `doit gc` has deleted meanwhile is put from there again.
        Raises Transient when the disk is full.
        """
        entry = cast(Entry, {"key": key, **record})
        if isinstance(outcome, Failure):
            entry["failure"] = cast(FailureRow, asdict(outcome))
        else:
            entry["files"] = [file_row(file) for file in outcome.files]
        for _ in range(LOOKS):
            self._write_entry(entry, accept)
            self._outcomes.pop(key, None)
            if (published := self.lookup(key, accept)) is not None:
                return published
            if folder is not None and isinstance(outcome, Artifact):
                self._put_missing(outcome, folder)
        return outcome

    def _put_missing(self, artifact: Artifact, folder: Path) -> None:
        """Put blobs again that are missing, as far as the folder still has them."""
        for file in artifact.files:
            path = folder / file.path
            if not self.has_blob(file) and path.is_file():
                self.put_hashed_file(path, file.size, file.sha256)

    def _write_entry(self, entry: Entry, accept: Accept) -> None:
        """Write an AC entry unless there is a sound one that is accepted. Raises Transient."""
        key = entry["key"]
        path = self.entry_path(key)
        make_folder(path.parent)
        if is_odd(path):
            self.quarantine(path)
        temporary = self.folder("tmp") / f"{key}.{unique_name()}.json"
        try:
            with temporary.open("w") as handle:
                handle.write(format_entry(entry))
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                if self.lookup(key, accept) is None:
                    os.replace(temporary, path)
                else:
                    self._touch(path)
            fsync_folder(path.parent)
        except OSError as error:
            raise disk_error(error, self.root) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _touch(self, path: Path) -> None:
        """Make an entry young, so that `doit gc` leaves it alone."""
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.utime(path)

    def fail_this_run(self, key: str, failure: Failure) -> None:
        """Take an action as failed for as long as this process lives; nothing is written."""
        self._outcomes[key] = failure
        self.failed_this_run = True

    def drop_from_memory(self, key: str) -> None:
        """Look an action up anew next time."""
        self._outcomes.pop(key, None)

    def forget(self, key: str) -> bool:
        """Delete an AC entry and return whether there was one; blobs stay until `doit gc`."""
        self._outcomes.pop(key, None)
        try:
            self.entry_path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the exclusive lock of a key; it saves work, correctness doesn't rest on it."""
        with locks.hold_lock(self.folder("lock") / key, self.lock_kind):
            yield

    def lay_out(self, artifact: Artifact, folder: Path) -> Path:
        """Fill a folder with links to an artifact's blobs, under their names; return the folder.

        Raises ValueError for a name that leads out of the folder.
        """
        for file in artifact.files:
            path = folder / file.path
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{file.path!r} leaves its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(self.blob_path(file.sha256).resolve())
        return folder

    def read_json(self, artifact: Artifact, name: str) -> Any:
        """Read a JSON file of an artifact. Raises StopIteration where it has no such file."""
        file = next(f for f in artifact.files if f.path == name)
        return json.loads(read_regular(self.blob_path(file.sha256)))

    def sweep_tmp(self) -> None:
        """Delete what killed workers left in tmp/: folders whose worker's lock nobody holds."""
        for path in self.folder("tmp").iterdir():
            lock = self.folder("lock") / path.name.split(".")[0]
            with locks.try_lock(lock, self.lock_kind) as free:
                if not free:
                    continue
                with contextlib.suppress(OSError):
                    remove_path(path)

    def quarantine(self, path: Path) -> None:
        """Put a damaged file of the cache aside, so that it is missing from then on."""
        self._outcomes.clear()
        move_to_quarantine(self.root, path)

    def check_blob(self, file: File) -> bool:
        """Return whether a blob's bytes are those of its name; others go into quarantine."""
        path = self.blob_path(file.sha256)
        matches = self.has_blob(file) and hash_file(path) == file.sha256
        if not matches and os.path.lexists(path):
            self.quarantine(path)
        return matches
