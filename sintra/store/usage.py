"""`doit du`: what the cache is full of, by stage and by model."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.types import Artifact, File
from sintra.store.store import Store

BESIDE = ("quarantine", "tmp", "downloads", "envs", "meta")
NONE = "(no model)"


class Origins:
    """Which models a step stands on: followed through its inputs to the folders with a config.json
    that were fetched.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.made: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for data in records:
            if "files" in data:
                self.made[Artifact(tuple(File(**f) for f in data["files"])).digest].append(data)
        self.known: dict[str, frozenset[str]] = {}

    def of(self, data: dict[str, Any]) -> frozenset[str]:
        """The models of an entry, by name."""
        if data.get("stage") == "fetch" and any(
            f["path"] == "config.json" for f in data.get("files", ())
        ):
            return frozenset([str(data.get("step", "?")).partition(":")[2]])
        inputs = (data.get("action") or {}).get("inputs") or {}
        return frozenset().union(*(self.behind(digest) for digest in inputs.values()))

    def behind(self, digest: str) -> frozenset[str]:
        """The models of an artifact."""
        if digest not in self.known:
            self.known[digest] = (
                frozenset()
            )  # an artifact can't stand on itself; a forged entry could say so
            self.known[digest] = frozenset().union(
                *(self.of(data) for data in self.made.get(digest, ()))
            )
        return self.known[digest]


def usage(store: Store) -> dict[str, Any]:
    """Bytes in the cache: of all blobs, of those that no entry names, by stage and by model (of
    which nothing else needs `unique`), in the folders beside, and free on the disk.
    """
    records = list(store.records())
    origins = Origins(records)
    groups: dict[str, dict[str, set[str]]] = {
        "stages": defaultdict(set),
        "models": defaultdict(set),
    }
    steps: Counter[tuple[str, str]] = Counter()
    for data in records:
        digests = {f["sha256"] for f in data.get("files", ())}
        for kind, names in (
            ("stages", [str(data.get("stage", "?"))]),
            ("models", origins.of(data) or [NONE]),
        ):
            for name in names:
                groups[kind][name] |= digests
                steps[kind, name] += 1
    blobs = {p.name: p.stat().st_size for p in (store.root / "cas").glob("*/*")}
    named = set().union(*groups["stages"].values())
    found = {
        "bytes": sum(blobs.values()),
        "blobs": len(blobs),
        "unnamed": sum(n for d, n in blobs.items() if d not in named),
    }
    found["disk_free"] = shutil.disk_usage(store.root).free
    return (
        found
        | {
            kind: shares(held, blobs, {n: steps[kind, n] for n in held})
            for kind, held in groups.items()
        }
        | {"beside": {name: folder_bytes(store.root / name) for name in BESIDE}}
    )


def shares(
    groups: dict[str, set[str]], blobs: dict[str, int], steps: dict[str, int]
) -> list[dict[str, Any]]:
    """A row for each group, the largest first."""
    owners = Counter(digest for held in groups.values() for digest in held)
    rows = [
        {
            "name": name,
            "steps": steps[name],
            "bytes": sum(blobs.get(d, 0) for d in held),
            "unique": sum(blobs.get(d, 0) for d in held if owners[d] == 1),
        }
        for name, held in groups.items()
    ]
    return sorted(rows, key=lambda r: (-r["bytes"], r["name"]))


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 (environments hold many files)
            except OSError:
                continue
    return total


def show(store: Store, format: str) -> None:
    """Print it. Raises UserError."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    if not store.root.is_dir():
        raise UserError(f"there is no cache at {store.root}")
    found = usage(store)
    if format == "json":
        print(json.dumps(found, indent=1))
        return
    print(
        f"{found['bytes'] / 1e6:.1f} MB in {found['blobs']} blobs; {found['unnamed'] / 1e6:.1f} "
        f"MB of them no step names; {found['disk_free'] / 1e9:.1f} GB free"
    )
    for kind in ("stages", "models"):
        print(f"\n{kind[:-1]:<32}{'steps':>8}{'MB':>12}{'unique MB':>12}")
        for row in found[kind]:
            print(
                f"{row['name'][:31]:<32}{row['steps']:>8}{row['bytes'] / 1e6:>12.1f}{row['unique'] / 1e6:>12.1f}"
            )
    beside = {name: count for name, count in found["beside"].items() if count}
    print(
        "\nbeside: "
        + (", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in beside.items()) or "nothing")
    )
