"""`doit verify`, `doit gc`: whether the cache is sound, and what of it goes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError, nearest
from sintra.store.files import hash_file, keep
from sintra.store.store import Store

KEYS, PIN = "keys.json", "pinned"
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


@dataclass(frozen=True)
class Root:
    """A recorded study: the keys that it stands on, when it was last run (seconds since 1970), and
    why it stays whatever its age ("pinned", "in outputs/"; empty: it may go).
    """

    study: str
    keys: frozenset[str]
    used: float
    held: str


def roots(root: Path, store: Store) -> list[Root]:
    """Every study of this cache, the one used longest ago first."""
    found = []
    for path in (store.root / "studies").glob(f"*/{KEYS}"):
        study = path.parent.name
        delivered = (root / "outputs" / study / "result.json").exists()
        held = "pinned" if (path.parent / PIN).exists() else "in outputs/" if delivered else ""
        try:
            keys = frozenset(json.loads(path.read_text()))
        except ValueError:
            raise UserError(
                f"{path} can't be read: run that study again, or delete the file"
            ) from None
        found.append(Root(study, keys, path.stat().st_mtime, held))
    return sorted(found, key=lambda r: (r.used, r.study))


def age(text: str) -> float:
    """30d, 12h, 2w in seconds. Raises UserError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if not found:
        raise UserError(f"--older={text} is no age: 12h, 30d, 8w")
    return float(found[1]) * SECONDS[found[2]]


def size(text: str) -> float:
    """20G, 500M (powers of ten), 4GiB (of two) in bytes. Raises UserError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if not found or found[2] not in BYTES:
        raise UserError(f"--max-size={text} is no size: 500M, 20G, 4GiB")
    return float(found[1]) * BYTES[found[2]]


class Sizes:
    """Which blobs a set of keys needs, and how many bytes they are."""

    def __init__(self, store: Store) -> None:
        self.files: dict[str, dict[str, int]] = {}
        for data in store.records():
            self.files[data["key"]] = {f["sha256"]: f["size"] for f in data.get("files", ())}

    def blobs(self, keys: Iterable[str]) -> dict[str, int]:
        """Blob -> bytes."""
        return {digest: count for key in keys for digest, count in self.files.get(key, {}).items()}

    def total(self, keys: Iterable[str]) -> int:
        """Bytes, each blob once."""
        return sum(self.blobs(keys).values())


def chosen(
    found: list[Root], sizes: Sizes, older_s: float | None, most: float | None, now: float
) -> list[Root]:
    """The studies that go: those that nothing holds and that weren't run for so long, then the ones
    used longest ago until the rest is small enough.
    """
    free = [r for r in found if not r.held]
    gone = [r for r in free if older_s is not None and now - r.used > older_s]
    for each in free:
        if most is None or sizes.total({k for r in found if r not in gone for k in r.keys}) <= most:
            break
        if each not in gone:
            gone.append(each)
    return gone


def collect(root: Path, store: Store, dry_run: bool, older: str, max_size: str) -> None:
    """Delete what no study needs that stays. Raises UserError."""
    older_s, most = age(older) if older else None, size(max_size) if max_size else None
    found, sizes, now = roots(root, store), Sizes(store), time.time()
    gone = chosen(found, sizes, older_s, most, now)
    for each in gone:
        print(
            f"{'would drop' if dry_run else 'dropped'} {each.study}, last run "
            f"{(now - each.used) / 86400:.0f} days ago"
        )
        if not dry_run:
            (
                store.root / "studies" / each.study / KEYS
            ).unlink()  # its rounds stay: the same command makes the same again
    stays = {k for r in found if r not in gone for k in r.keys}
    entries, blobs, freed = store.gc(stays, dry_run)
    print(
        f"{'would delete' if dry_run else 'deleted'} {entries} entries and {blobs} blobs, "
        f"{freed / 1e6:.1f} MB"
    )
    if older_s is not None:
        aside = [
            p for p in store.folder("quarantine").iterdir() if now - p.stat().st_mtime > older_s
        ]
        for path in aside if not dry_run else ():
            path.unlink()
        if aside:
            print(f"{'would delete' if dry_run else 'deleted'} {len(aside)} files in quarantine")
    if most is not None and (rest := sizes.total(stays)) > most:
        print(
            f"{rest / 1e6:.1f} MB stay: pinned studies and those in outputs/ need them (`doit gc "
            "--unpin`, or delete there)"
        )


def pin(store: Store, study: str, on: bool) -> None:
    """Keep a study whatever its age and size, or no longer. Raises UserError."""
    known = [p.parent.name for p in (store.root / "studies").glob(f"*/{KEYS}")]
    if study not in known:
        raise UserError(f"this cache has no study {study!r}: {nearest(study, known)}")
    path = store.root / "studies" / study / PIN
    if on:
        path.touch()
    else:
        path.unlink(missing_ok=True)
    print(f"{study} is {'pinned' if on else 'no longer pinned'}")


def verify(root: Path, store: Store, full: bool) -> bool:
    """Look for damage, put it into quarantine, and say what will be built again.

    Without full, a blob that was found sound before isn't read again while its size, times and
    inode are the same: that finds what was written over, not what a disk has lost. With full,
    everything is read: blobs that no step names, entries, outputs/.
    """
    path = store.root / "meta" / "verified.json"
    known: dict[str, list[int]] = {}
    if not full:
        with suppress(OSError, ValueError):
            known = json.loads(path.read_bytes())
    wrong: list[str] = []
    again: dict[str, None] = {}
    for entry in entries(store) if full else ():
        wrong.append(entry)
    for file, what, step in store.verify(known):
        wrong.append(
            f"{what}: {file.path} of {step} ({file.sha256[:12]}): the next run that needs it "
            "builds it again"
        )
        again[step] = None
    keep(path, canonical(known))
    if full:
        wrong += [*strays(store, known), *delivered(root)]
    for line in wrong:
        print(line)
    if again:
        print(
            f"to be built again: {', '.join(again)}; what follows from them only where their "
            "bytes come out otherwise"
        )
    if wrong:
        print(f"{len(wrong)} damaged or missing")
    else:
        print("all blobs are sound" + (", and so are entries and outputs/" if full else ""))
    return not wrong


def entries(store: Store) -> Iterator[str]:
    """Move entries that are none into quarantine: torn ones, and those whose action isn't what
    their key says.
    """
    for path in sorted((store.root / "ac").glob("*/*")):
        data = store.record(path.stem)
        good = data is not None and path == store.entry(path.stem) and data.get("key") == path.stem
        if (
            good
            and data is not None
            and ("action" not in data or sha256(canonical(data["action"])) == path.stem)
        ):
            continue
        os.replace(path, store.folder("quarantine") / f"{path.name}.{int(time.time())}")
        step = data.get("step", path.stem[:12]) if data else path.stem[:12]
        yield f"damaged: the entry of {step}: the next run that needs it builds it again"


def strays(store: Store, known: dict[str, list[int]]) -> Iterator[str]:
    """Move blobs that no entry names and that aren't what their name says into quarantine."""
    for path in sorted((store.root / "cas").glob("*/*")):
        if path.name in known or hash_file(path) == path.name:
            continue
        os.replace(path, store.folder("quarantine") / f"{path.name}.{int(time.time())}")
        yield f"damaged: a blob that no step needs ({path.name[:12]})"


def delivered(root: Path) -> Iterator[str]:
    """Files in outputs/ that aren't what their study's manifest says."""
    for path in sorted((root / "outputs").glob("*/manifest.json")):
        if path.parent.is_symlink():
            continue
        try:
            files = json.loads(path.read_text())["files"].items()
        except (ValueError, KeyError, AttributeError):
            files = [("manifest.json", "")]
        for name, digest in files:
            own = path.parent / name
            if not own.is_file() or hash_file(own) != digest:
                yield (
                    f"damaged: outputs/{path.parent.name}/{name}: delete that folder, the study's "
                    "next run writes it anew"
                )
