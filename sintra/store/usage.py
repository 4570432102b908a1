"""Say what the cache is full of, by stage and by model (`doit du`)."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from sintra.core.artifact import Artifact, File
from sintra.core.errors import UserError
from sintra.store.entries import Entry
from sintra.store.store import Store

OTHER_FOLDERS = ("quarantine", "tmp", "downloads", "envs", "meta")  # of the cache, beside ac/, cas/
NO_MODEL = "(no model)"


class UsageRow(TypedDict):
    """What one stage or one model takes of the cache."""

    name: str  # of the stage or the model
    steps: int  # AC entries
    bytes: int  # of all blobs that it names
    unique: int  # bytes of the blobs that no other row of its table names


class Usage(TypedDict):
    """What the cache is full of, as `doit du --format json` prints it."""

    bytes: int  # of all blobs
    blobs: int  # their number
    unnamed: int  # bytes of the blobs that no entry names
    disk_free: int  # bytes
    stages: list[UsageRow]  # the largest first
    models: list[UsageRow]  # the largest first
    beside: dict[str, int]  # bytes in the other folders, by name


class ModelOrigins:
    """Which models a step stands on.

    They are followed through its inputs to the fetched folders with a config.json.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.makers: dict[str, list[Entry]] = defaultdict(list)  # by the digest of the artifact
        for entry in entries:
            if "files" in entry:
                artifact = Artifact(tuple(File(**row) for row in entry["files"]))
                self.makers[artifact.digest].append(entry)
        self._models: dict[str, frozenset[str]] = {}  # by digest: names that were looked up before

    def of_entry(self, entry: Entry) -> frozenset[str]:
        """Return the names of the models that an entry's step stands on."""
        if entry.get("stage") == "fetch" and any(
            row["path"] == "config.json" for row in entry.get("files", ())
        ):
            return frozenset([str(entry.get("step", "?")).partition(":")[2]])
        inputs = (entry.get("action") or {}).get("inputs") or {}
        return frozenset().union(*(self.of_artifact(digest) for digest in inputs.values()))

    def of_artifact(self, digest: str) -> frozenset[str]:
        """Return the names of the models that an artifact stands on."""
        if digest not in self._models:
            # an artifact can't stand on itself, but a forged entry could say so
            self._models[digest] = frozenset()
            makers = self.makers.get(digest, ())
            self._models[digest] = frozenset().union(*(self.of_entry(entry) for entry in makers))
        return self._models[digest]


class UsageGroup:
    """The blobs and steps of each stage, or of each model."""

    def __init__(self) -> None:
        self.blobs: dict[str, set[str]] = defaultdict(set)  # name -> digests
        self.steps: Counter[str] = Counter()  # name -> AC entries

    def add(self, name: str, digests: set[str]) -> None:
        """Count one more step under this name."""
        self.blobs[name] |= digests
        self.steps[name] += 1

    def rows(self, sizes: dict[str, int]) -> list[UsageRow]:
        """Return a row for each name, the largest first. sizes: bytes of each blob, by digest."""
        owners = Counter(digest for digests in self.blobs.values() for digest in digests)
        rows = [
            UsageRow(
                name=name,
                steps=self.steps[name],
                bytes=sum(sizes.get(d, 0) for d in digests),
                unique=sum(sizes.get(d, 0) for d in digests if owners[d] == 1),
            )
            for name, digests in self.blobs.items()
        ]
        return sorted(rows, key=lambda row: (-row["bytes"], row["name"]))


def measure_usage(store: Store) -> Usage:
    """Add up the bytes in the cache."""
    entries = list(store.read_entries())
    origins = ModelOrigins(entries)
    stages, models = UsageGroup(), UsageGroup()
    for entry in entries:
        digests = {row["sha256"] for row in entry.get("files", ())}
        stages.add(str(entry.get("stage", "?")), digests)
        for model in origins.of_entry(entry) or [NO_MODEL]:
            models.add(model, digests)
    sizes = {path.name: path.stat().st_size for path in (store.root / "cas").glob("*/*")}
    named = set().union(*stages.blobs.values())
    return {
        "bytes": sum(sizes.values()),
        "blobs": len(sizes),
        "unnamed": sum(count for digest, count in sizes.items() if digest not in named),
        "disk_free": shutil.disk_usage(store.root).free,
        "stages": stages.rows(sizes),
        "models": models.rows(sizes),
        "beside": {name: folder_bytes(store.root / name) for name in OTHER_FOLDERS},
    }


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                # environments hold many files, and pathlib is slower
                total += os.lstat(os.path.join(directory, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total


def print_usage(store: Store, format: str) -> None:
    """Print what the cache is full of, as text or json. Raises UserError."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    if not store.root.is_dir():
        raise UserError(f"there is no cache at {store.root}")
    usage = measure_usage(store)
    if format == "json":
        print(json.dumps(usage, indent=1))
        return
    print(
        f"{usage['bytes'] / 1e6:.1f} MB in {usage['blobs']} blobs; {usage['unnamed'] / 1e6:.1f} "
        f"MB of them no step names; {usage['disk_free'] / 1e9:.1f} GB free"
    )
    _print_rows("stage", usage["stages"])
    _print_rows("model", usage["models"])
    others = [f"{name} {count / 1e6:.1f} MB" for name, count in usage["beside"].items() if count]
    print("\nbeside: " + (", ".join(others) or "nothing"))


def _print_rows(title: str, rows: list[UsageRow]) -> None:
    """Print a table of stages or models."""
    print(f"\n{title:<32}{'steps':>8}{'MB':>12}{'unique MB':>12}")
    for row in rows:
        print(
            f"{row['name'][:31]:<32}{row['steps']:>8}{row['bytes'] / 1e6:>12.1f}"
            f"{row['unique'] / 1e6:>12.1f}"
        )
