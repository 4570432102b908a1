"""The store: an action cache (AC) from key to outputs, and a content-addressed store (CAS) of
read-only blobs.

Publishing is atomic: hash while copying into the CAS under a temporary name, fsync, rename, fsync
the folder, then the AC entry by an exclusive link, so the first writer wins. Freshness is decided
here and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core.errors import disk_error
from sintra.core.types import Artifact, Failure, File
from sintra.store import entries, locks
from sintra.store.files import fsync_folder, hash_file, mark, unique

if TYPE_CHECKING:
    from sintra.store.remote.shared import Shared

CHUNK = 1 << 20
Outcome = Artifact | Failure


class Store:
    """The cache folder. Every method is safe to call from several processes at once."""

    def __init__(self, root: Path, kind: str = "auto") -> None:
        """kind: of its locks (sintra.store.locks)."""
        self.root, self.locks = root, kind
        self.shared: Shared | None = None  # the remote store behind it, where there is one
        self._memo: dict[str, Outcome] = {}
        self.excused = False

    def __repr__(self) -> str:
        return f"Store({self.root})"

    def folder(self, name: str) -> Path:
        """A subfolder, made when it is missing."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def blob(self, digest: str) -> Path:
        """Where the blob with this SHA-256 lies or would lie."""
        return self.root / "cas" / digest[:2] / digest

    def entry(self, key: str) -> Path:
        """Where the AC entry of this key lies or would lie."""
        return self.root / "ac" / key[:2] / f"{key}.json"

    def record(self, key: str) -> dict[str, Any] | None:
        """The AC entry as it was written (outputs, action, times), without a look at the blobs."""
        try:
            with open(f"{self.root}/ac/{key[:2]}/{key}.json", "rb") as handle:  # noqa: PTH123 (a no-op does this for every step)
                return entries.read(handle.read(), key)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def lookup(self, key: str) -> Outcome | None:
        """What this action produced, or None: unknown, or one of its blobs is missing or has the
        wrong size.
        """
        if key in self._memo:
            return self._memo[key]
        data = self.record(key)
        if data is None:
            return None
        found = entries.outcome(data)
        if isinstance(found, Artifact) and not all(self.sound(f) for f in found.files):
            return None
        if found is not None:
            self._memo[key] = found
        return found

    def sound(self, file: File) -> bool:
        """Whether a blob is there with the right size."""
        try:
            return os.stat(f"{self.root}/cas/{file.sha256[:2]}/{file.sha256}").st_size == file.size  # noqa: PTH116 (likewise)
        except OSError:
            return False

    def put_file(self, path: Path) -> tuple[int, str]:
        """Move a file into the CAS; returns its size and SHA-256. Raises Transient when the disk is
        full.
        """
        try:
            return self.keep(path, path.stat().st_size, hash_file(path))
        except OSError as error:
            raise disk_error(error, self.root) from error

    def keep(self, path: Path, size: int, digest: str) -> tuple[int, str]:
        """Move a file whose size and SHA-256 are known into the CAS. Raises Transient when the disk
        is full.
        """
        try:
            target = self.blob(digest)
            if target.exists() and target.stat().st_size == size:
                path.unlink()
                return size, digest
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            path.chmod(0o444)
            os.replace(path, target)
            fsync_folder(target.parent)
            return size, digest
        except OSError as error:
            raise disk_error(error, self.root) from error

    def put_tree(self, folder: Path) -> Artifact:
        """Move every regular file below a folder into the CAS."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            name = path.relative_to(folder).as_posix()
            files.append(File(name, *self.put_file(path)))
        return Artifact(tuple(files))

    def publish(self, key: str, outcome: Outcome, about: dict[str, Any]) -> Outcome:
        """Write the AC entry unless there is a sound one; returns the outcome that counts (the
        first writer's).
        """
        data: dict[str, Any] = {"key": key, **about}
        if isinstance(outcome, Failure):
            data["failure"] = asdict(outcome)
        else:
            data["files"] = [asdict(f) for f in outcome.files]
        path = self.entry(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.folder("tmp") / f"{key}.{unique()}.json"
        try:
            with temporary.open("w") as handle:
                handle.write(entries.text(data))
                handle.flush()
                os.fsync(handle.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                if self.lookup(key) is None:
                    os.replace(temporary, path)
            fsync_folder(path.parent)
        except OSError as error:
            raise disk_error(error, self.root) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._memo.pop(key, None)
        return self.lookup(key) or outcome

    def excuse(self, key: str, failure: Failure) -> None:
        """Take an action as failed for as long as this process lives; nothing is written."""
        self._memo[key] = failure
        self.excused = True

    def forget(self, key: str) -> bool:
        """Drop an AC entry; the blobs stay until `gc`."""
        self._memo.pop(key, None)
        try:
            self.entry(key).unlink()
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """An exclusive lock on a key, held by the worker: it saves work, correctness doesn't rest
        on it.
        """
        with locks.exclusive(self.folder("lock") / key, self.locks):
            yield

    def lay_out(self, artifact: Artifact, folder: Path) -> Path:
        """A read-only view of an artifact: links to its blobs under their names."""
        for file in artifact.files:
            path = folder / file.path
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{file.path!r} leaves its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(self.blob(file.sha256).resolve())
        return folder

    def read_json(self, artifact: Artifact, name: str) -> Any:
        """The content of a JSON file of an artifact."""
        file = next(f for f in artifact.files if f.path == name)
        return json.loads(self.blob(file.sha256).read_bytes())

    def sweep_tmp(self) -> None:
        """Remove what killed workers left behind: folders whose worker's lock nobody holds."""
        for path in self.folder("tmp").iterdir():
            with locks.attempt(self.folder("lock") / path.name.split(".")[0], self.locks) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                        missing_ok=True
                    )

    def records(self) -> Iterator[dict[str, Any]]:
        """Every AC entry."""
        for path in sorted((self.root / "ac").glob("??/*.json")):
            data = self.record(path.stem)
            if data is not None:
                yield data

    def verify(self, known: dict[str, list[int]] | None = None) -> Iterator[tuple[File, str, str]]:
        """Rehash every blob that an AC entry names; yields (file, what is wrong, the step that made
        it) and moves a damaged blob into quarantine, so that it is a miss from then on.

        known: marks of blobs that were found sound; one whose mark still holds isn't read. Brought
        up to date.
        """
        for path in sorted((self.root / "ac").glob("??/*.json")):
            if self.record(path.stem) is None:
                yield File(path.name, path.stat().st_size, path.stem), "damaged", "an AC entry"
                self.quarantine(path)
        known, seen = {} if known is None else known, {}
        for data in self.records():
            for file in (File(**f) for f in data.get("files", ())):
                path = self.blob(file.sha256)
                if file.sha256 not in seen:
                    now = mark(path.stat()) if path.exists() else []
                    seen[file.sha256] = bool(now) and (
                        known.get(file.sha256) == now or hash_file(path) == file.sha256
                    )
                    known[file.sha256] = now
                if seen[file.sha256]:
                    continue
                known.pop(file.sha256, None)
                wrong = "damaged" if path.exists() else "missing"
                if path.exists():
                    self.quarantine(path)
                yield file, wrong, str(data.get("step", data["key"][:12]))

    def quarantine(self, path: Path) -> None:
        """Put a damaged file aside, so that it is missing from then on."""
        os.replace(path, self.folder("quarantine") / f"{path.name}.{int(time.time())}")

    def genuine(self, file: File) -> bool:
        """Whether a blob's bytes are those of its name; one whose aren't goes into quarantine."""
        path = self.blob(file.sha256)
        good = self.sound(file) and hash_file(path) == file.sha256
        if not good and path.exists():
            self.quarantine(path)
        return good

    def gc(self, keep: set[str], dry_run: bool = False) -> tuple[int, int, int]:
        """Delete AC entries whose key is not in `keep`, then blobs that no entry names.

        Returns entries deleted, blobs deleted and bytes freed. What is younger than an hour stays:
        a study may be at work on it.
        """
        entries, live = 0, set()
        young = time.time() - float(os.environ.get("SINTRA_GC_GRACE_S", "3600"))
        for data in list(self.records()):
            if data["key"] in keep or self.entry(data["key"]).stat().st_mtime > young:
                live |= {f["sha256"] for f in data.get("files", ())}
            else:
                entries += 1
                if not dry_run:
                    self.forget(data["key"])
        blobs = freed = 0
        for path in (self.root / "cas").glob("??/*"):
            stat = path.stat()
            if path.name not in live and stat.st_mtime <= young:
                blobs, freed = blobs + 1, freed + stat.st_size
                if not dry_run:
                    path.unlink()
        return entries, blobs, freed
