"""Check whether the cache is sound (`doit verify`), and delete what nobody needs (`doit gc`)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sintra.core.artifact import File
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError, nearest
from sintra.core.text import printable_line
from sintra.store.entries import stays_inside
from sintra.store.files import (
    change_mark,
    hash_file,
    is_regular,
    read_regular,
    remove_path,
    unique_name,
    write_if_possible,
)
from sintra.store.store import Store

KEYS_FILE = "keys.json"  # in a study's folder: the keys that it stands on
PIN_FILE = "pinned"  # likewise: there while the study is pinned
GC_LOCK = "gc"  # name of the lock that `doit gc` holds
GRACE_S = 3600.0  # younger entries and blobs stay, since a study may be at work on them; seconds
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}

Marks = dict[str, list[int]]  # by digest: change marks of blobs that were found sound


@dataclass(frozen=True)
class RecordedStudy:
    """A study of this cache, as far as it decides what `doit gc` keeps."""

    name: str  # the study's id
    keys: frozenset[str]  # of the steps that it stands on
    last_run: float  # seconds since 1970
    kept_because: str  # "pinned" or "in outputs/": it stays whatever its age; "": it may go


class Damage(NamedTuple):
    """A blob or an entry that isn't as it was written."""

    file: File
    problem: str  # "damaged" or "missing"
    step: str  # the name of the step that made it


class Deletion(NamedTuple):
    """What `delete_unneeded` deleted, or would delete."""

    entries: int  # AC entries
    blobs: int
    freed_bytes: int


class BlobSizes:
    """Which blobs a set of keys needs, and how many bytes they are."""

    def __init__(self, store: Store) -> None:
        self.sizes: dict[str, dict[str, int]] = {}  # key -> digest of a blob -> its bytes
        for entry in store.read_entries():
            self.sizes[entry["key"]] = {f["sha256"]: f["size"] for f in entry.get("files", ())}

    def blobs(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the bytes of every blob that these keys need, by digest."""
        return {digest: count for key in keys for digest, count in self.sizes.get(key, {}).items()}

    def total(self, keys: Iterable[str]) -> int:
        """Return the bytes that these keys need, each blob counted once."""
        return sum(self.blobs(keys).values())


def recorded_studies(root: Path, store: Store) -> list[RecordedStudy]:
    """Return every study of this cache, the one run longest ago first. Raises UserError."""
    studies = []
    for path in files_below(store.root / "studies", KEYS_FILE):
        name = path.parent.name
        delivered = (root / "outputs" / name / "result.json").exists()
        pinned = (path.parent / PIN_FILE).exists()
        try:
            keys = frozenset(_list_of_keys(json.loads(read_regular(path))))
        except (OSError, ValueError, RecursionError):
            raise UserError(
                f"{path} can't be read: run that study again, or delete the file"
            ) from None
        reason = "pinned" if pinned else "in outputs/" if delivered else ""
        studies.append(RecordedStudy(name, keys, path.stat().st_mtime, reason))
    return sorted(studies, key=lambda s: (s.last_run, s.name))


def files_below(folder: Path, name: str) -> list[Path]:
    """Return what has this name in each folder of a folder, also links that lead nowhere."""
    return [p for part in sorted(folder.glob("*")) if os.path.lexists(p := part / name)]


def _list_of_keys(value: object) -> list[str]:
    """Return a list of texts. Raises ValueError for anything else."""
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise ValueError("not a list of keys")
    return value


def parse_age(text: str) -> float:
    """Return 30d, 12h or 2w in seconds. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if not match:
        raise UserError(f"--older={text} is not an age: 12h, 30d, 8w")
    return float(match[1]) * SECONDS[match[2]]


def parse_size(text: str) -> float:
    """Return 20G or 500M (powers of ten) or 4GiB (of two) in bytes. Raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not match or match[2] not in BYTES:
        raise UserError(f"--max-size={text} is not a size: 500M, 20G, 4GiB")
    return float(match[1]) * BYTES[match[2]]


def choose_studies_to_drop(
    studies: list[RecordedStudy],
    sizes: BlobSizes,
    older_s: float | None,
    max_bytes: float | None,
    now: float,
) -> list[RecordedStudy]:
    """Return the studies that go, none of which is pinned or in outputs/.

    These are the studies that weren't run for `older_s` seconds, then the ones run longest ago
    until what the rest needs is at most `max_bytes`. studies: the one run longest ago first.
    """
    free = [s for s in studies if not s.kept_because]
    dropped = [s for s in free if older_s is not None and now - s.last_run > older_s]
    for study in free:
        if max_bytes is None or sizes.total(_keys_of_rest(studies, dropped)) <= max_bytes:
            break
        if study not in dropped:
            dropped.append(study)
    return dropped


def _keys_of_rest(studies: list[RecordedStudy], dropped: list[RecordedStudy]) -> set[str]:
    """Return the keys of the studies that stay."""
    return {key for study in studies if study not in dropped for key in study.keys}


def collect_garbage(root: Path, store: Store, dry_run: bool, older: str, max_size: str) -> None:
    """Delete what no study needs that stays, and print what went. Raises UserError.

    older, max_size: the options as they were typed, "" for none. dry_run: only print.
    """
    older_s = parse_age(older) if older else None
    max_bytes = parse_size(max_size) if max_size else None
    studies, sizes, now = recorded_studies(root, store), BlobSizes(store), time.time()
    dropped = choose_studies_to_drop(studies, sizes, older_s, max_bytes, now)
    _drop_studies(store, dropped, dry_run, now)
    needed = _keys_of_rest(studies, dropped)
    deletion = delete_unneeded(store, needed, dry_run)
    print(
        f"{'would delete' if dry_run else 'deleted'} {deletion.entries} entries and "
        f"{deletion.blobs} blobs, {deletion.freed_bytes / 1e6:.1f} MB"
    )
    if older_s is not None:
        _empty_quarantine(store, older_s, dry_run, now)
    if max_bytes is not None and (rest := sizes.total(needed)) > max_bytes:
        print(
            f"{rest / 1e6:.1f} MB stay: pinned studies and those in outputs/ need them (`doit gc "
            "--unpin`, or delete there)"
        )


def _drop_studies(store: Store, dropped: list[RecordedStudy], dry_run: bool, now: float) -> None:
    """Delete the studies' lists of keys; their rounds stay, so a later run makes the same again."""
    for study in dropped:
        print(
            f"{'would drop' if dry_run else 'dropped'} {study.name}, last run "
            f"{(now - study.last_run) / 86400:.0f} days ago"
        )
        if not dry_run:
            (store.root / "studies" / study.name / KEYS_FILE).unlink()


def _empty_quarantine(store: Store, older_s: float, dry_run: bool, now: float) -> None:
    """Delete files in quarantine that are older than so many seconds."""
    files = [
        path
        for path in store.folder("quarantine").iterdir()
        if now - path.lstat().st_mtime > older_s
    ]
    for path in files if not dry_run else ():
        remove_path(path)
    if files:
        print(f"{'would delete' if dry_run else 'deleted'} {len(files)} files in quarantine")


def delete_unneeded(store: Store, needed: set[str], dry_run: bool = False) -> Deletion:
    """Delete AC entries whose key isn't needed, then blobs that no entry names.

    What is younger than GRACE_S stays.
    """
    with store.lock(GC_LOCK):  # keeps what is put aside from being swept
        return _delete_unneeded(store, needed, dry_run)


def _delete_unneeded(store: Store, needed: set[str], dry_run: bool) -> Deletion:
    entries, live = 0, set()
    young = time.time() - GRACE_S
    for entry in list(store.read_entries()):
        key = entry["key"]
        deletable = key not in needed and _is_older(store.entry_path(key), young)
        if deletable and (dry_run or _delete_if_old(store, store.entry_path(key), young)):
            entries += 1
            store.drop_from_memory(key)
        else:
            live |= {f["sha256"] for f in entry.get("files", ())}
    blobs = freed = 0
    for path in (store.root / "cas").glob("??/*"):
        size = path.lstat().st_size
        deletable = path.name not in live and _is_older(path, young)
        if deletable and (dry_run or _delete_if_old(store, path, young)):
            blobs, freed = blobs + 1, freed + size
    return Deletion(entries, blobs, freed)


def _is_older(path: Path, moment: float) -> bool:
    """Return whether a file was last made or used before a moment (seconds since 1970)."""
    try:
        return path.lstat().st_mtime <= moment
    except OSError:  # another gc was faster
        return False


def _delete_if_old(store: Store, path: Path, moment: float) -> bool:
    """Delete an entry or a blob unless it has become young; return whether it went.

    A worker that uses it again makes it young. Between a look and a deletion there is always time
    for that, so the file is taken out of reach first and looked at after that: then whoever uses it
    either was seen, and it is put back, or finds it missing and puts its own.
    """
    aside = store.folder("tmp") / f"{GC_LOCK}.{unique_name()}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if _is_older(aside, moment):
        aside.unlink()
        return True
    try:
        os.link(aside, path)
        aside.unlink()
    except FileExistsError:  # a worker has put its own meanwhile
        aside.unlink()
    except OSError:  # no hard links here
        aside.rename(path)
    return False


def pin_study(store: Store, study: str, pinned: bool) -> None:
    """Keep a study whatever its age and size, or no longer. Raises UserError."""
    studies = [p.parent.name for p in files_below(store.root / "studies", KEYS_FILE)]
    if study not in studies:
        raise UserError(f"this cache has no study {study!r}: {nearest(study, studies)}")
    path = store.root / "studies" / study / PIN_FILE
    if pinned:
        path.touch()
    else:
        path.unlink(missing_ok=True)
    print(f"{study} is {'pinned' if pinned else 'no longer pinned'}")


def verify_cache(root: Path, store: Store, full: bool) -> bool:
    """Put what is damaged into quarantine, print what will be built again, return if all is sound.

    Without full, a blob that was found sound before isn't read again while its size, times and
    inode are the same: that finds what was written over, not what a disk has lost. With full,
    everything is read: blobs that no step names, entries, outputs/.
    """
    path = store.root / "meta" / "verified.json"
    marks: Marks = {}
    if not full:
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(read_regular(path))
            marks = kept if isinstance(kept, dict) else {}
    lines = list(verify_entries(store)) if full else []
    steps: dict[str, None] = {}  # in order, each once
    for file, problem, step in verify_blobs(store, marks):
        lines.append(
            f"{problem}: {file.path} of {step} ({file.sha256[:12]}): the next run that needs it "
            "builds it again"
        )
        steps[step] = None
    write_if_possible(path, canonical(marks))
    if full:
        lines += [*verify_strays(store, marks), *verify_outputs(root)]
    _print_verification(lines, list(steps), full)
    return not lines


def _print_verification(lines: list[str], steps: list[str], full: bool) -> None:
    """Print a line for each damaged thing, which steps are built again, and the sum."""
    for line in lines:
        print(printable_line(line))
    if steps:
        print(
            f"to be built again: {', '.join(steps)}; what follows from them only where their "
            "bytes come out otherwise"
        )
    if lines:
        print(f"{len(lines)} damaged or missing")
    else:
        print("all blobs are sound" + (", and so are entries and outputs/" if full else ""))


def verify_blobs(store: Store, marks: Marks | None = None) -> Iterator[Damage]:
    """Hash every blob that an AC entry names; yield the damaged and the missing ones.

    A damaged blob goes into quarantine, so that it is a miss from then on; so does an entry that
    can't be read. A blob whose mark in `marks` still holds isn't read; `marks` is brought up to
    date.
    """
    yield from _quarantine_unreadable_entries(store)
    marks = {} if marks is None else marks
    sound: dict[str, bool] = {}  # by digest
    for entry in store.read_entries():
        for file in (File(**row) for row in entry.get("files", ())):
            path, digest = store.blob_path(file.sha256), file.sha256
            if digest not in sound:
                mark = change_mark(path.stat()) if is_regular(path) else []
                sound[digest] = bool(mark) and (marks.get(digest) == mark or is_as_named(path))
                marks[digest] = mark
            if sound[digest]:
                continue
            marks.pop(digest, None)
            problem = "damaged" if os.path.lexists(path) else "missing"
            if os.path.lexists(path):
                store.quarantine(path)
            yield Damage(file, problem, str(entry.get("step", entry["key"][:12])))


def _quarantine_unreadable_entries(store: Store) -> Iterator[Damage]:
    """Yield AC entries that can't be read, and put them into quarantine."""
    for path in sorted((store.root / "ac").glob("??/*.json")):
        if store.read_entry(path.stem) is None:
            yield Damage(File(path.name, path.lstat().st_size, path.stem), "damaged", "an AC entry")
            store.quarantine(path)


def is_as_named(path: Path) -> bool:
    """Return whether a blob is a file whose SHA-256 is its name."""
    try:
        return hash_file(path) == path.name
    except OSError:
        return False


def verify_entries(store: Store) -> Iterator[str]:
    """Put malformed entries into quarantine and yield a line for each.

    These are torn ones, misplaced ones, and those whose action isn't what their key says.
    """
    for path in sorted((store.root / "ac").glob("??/*")):
        entry, key = store.read_entry(path.stem), path.stem
        if (
            entry is not None
            and path == store.entry_path(key)
            and ("action" not in entry or sha256(canonical(entry["action"])) == key)
        ):
            continue
        store.quarantine(path)
        step = entry.get("step", key[:12]) if entry else key[:12]
        yield f"damaged: the entry of {step}: the next run that needs it builds it again"


def verify_strays(store: Store, marks: Marks) -> Iterator[str]:
    """Put damaged blobs that no entry names into quarantine and yield a line for each.

    marks: of the blobs that entries name.
    """
    for path in sorted((store.root / "cas").glob("??/*")):
        if path.name in marks or is_as_named(path):
            continue
        store.quarantine(path)
        yield f"damaged: a blob that no step needs ({path.name[:12]})"


def verify_outputs(root: Path) -> Iterator[str]:
    """Yield a line for each file in outputs/ that isn't what its study's manifest says."""
    for path in files_below(root / "outputs", "manifest.json"):
        if path.parent.is_symlink():
            continue
        for name, digest in _listed_files(path):
            file = path.parent / name
            if not stays_inside(name) or not is_regular(file) or hash_file(file) != digest:
                yield (
                    f"damaged: outputs/{path.parent.name}/{name}: the study's next run writes it "
                    "again"
                )


def _listed_files(manifest: Path) -> list[tuple[str, str]]:
    """Return the files that a manifest lists with their digests; itself where it can't be read."""
    unreadable = [("manifest.json", "")]
    try:
        data = json.loads(read_regular(manifest))
    except (OSError, ValueError, RecursionError):
        return unreadable
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict) or not all(isinstance(d, str) for d in files.values()):
        return unreadable
    return list(files.items())
