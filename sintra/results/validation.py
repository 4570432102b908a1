"""Whether a delivered result is what it says: every file has its SHA-256, the model loads, and it
answers.

outputs/latest moves only to a folder of which that holds. What was found sound is remembered by
size and time of its files in the cache (losing that costs time), so that going back and forth
between two studies reads no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.errors import Transient, UserError, nearest
from sintra.core.format import format_of
from sintra.core.recipe import Recipe
from sintra.core.stage import Context, cores
from sintra.core.types import Artifact, File
from sintra.formats.runtime.call import PACKAGE_ROOT
from sintra.formats.runtime.environments import locked_python
from sintra.store.files import hash_file, unique_name, write_atomic
from sintra.store.store import Store

START = (
    f"import sys; sys.path.append({PACKAGE_ROOT!r}); from sintra.results.load_check import main; "
    "sys.exit(main(sys.argv[1:]))"
)
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. words: what was found, or what is wrong."""

    what: str
    good: bool
    words: str


def validate(folder: Path, store: Store) -> list[Finding]:
    """Look at everything; a model whose bytes are wrong is not loaded."""
    try:
        result, manifest = (
            json.loads((folder / n).read_text()) for n in ("result.json", "manifest.json")
        )
        winner, listed = result["winner"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [
            Finding(
                "files",
                False,
                f"result.json or manifest.json can't be read: {type(error).__name__}: {error}",
            )
        ]
    if not winner:
        return [Finding("winner", False, f"there is none: {result['status']}")]
    files = digests(folder, listed, winner)
    return [files, loads(folder, manifest, winner, store)] if files.good else [files]


def digests(folder: Path, listed: dict[str, str], winner: dict[str, Any]) -> Finding:
    """Rehash every file that the manifest names, and compare the winner's with what was measured."""
    wrong = []
    for name, digest in sorted(listed.items()):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := hash_file(path)) != digest:
            wrong.append(f"{name} has the SHA-256 {found[:12]} where {digest[:12]} was written")
    if not wrong and artifact_digest(folder, listed, winner) != winner["artifact"]["sha256"]:
        wrong.append("the model isn't the one whose measurements stand in result.json")
    return Finding(
        "files", not wrong, "; ".join(wrong) or f"{len(listed)} files have their SHA-256"
    )


def artifact_digest(folder: Path, listed: dict[str, str], winner: dict[str, Any]) -> str | None:
    """The winner's digest by the manifest: of its GGUF, or of its folder's tree."""
    if winner["artifact"]["path"] == "model.gguf":
        return listed.get("model.gguf")
    tree = [
        File(n, (folder / n).stat().st_size, d) for n, d in listed.items() if n.startswith("model/")
    ]
    return Artifact(tuple(tree)).digest


def loads(folder: Path, manifest: dict[str, Any], winner: dict[str, Any], store: Store) -> Finding:
    """Whether the model loads and answers, in a process of its own with the winner's runtime."""
    recipe = Recipe.of(winner["recipe"])
    order = {
        "model": str(folder / winner["artifact"]["path"]),
        "kv": recipe.kv,
        "threads": threads(),
    }
    try:
        command = [interpreter(recipe, manifest, store), "-c", START, json.dumps(order)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "SINTRA_PARENT": str(os.getpid())},
        )
    except subprocess.TimeoutExpired:
        return Finding("answers", False, f"no answer within {TIMEOUT_S} s")
    except Transient as error:
        return Finding("answers", False, str(error))
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return Finding(
            "answers",
            False,
            f"its process ended with {done.returncode}: {done.stderr.strip()[-200:] or 'no word'}",
        )
    if "error" in said:
        return Finding("answers", False, said["error"])
    return Finding(
        "answers", bool(said["tokens"]), f"{said['runtime']}: {said['text'] or said['tokens']!r}"
    )


def threads() -> int:
    """As many as there are cores, or as OMP_NUM_THREADS allows."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(limit)) if limit.isdigit() and int(limit) else cores()


def interpreter(recipe: Recipe, manifest: dict[str, Any], store: Store) -> str:
    """The Python that the winner's format needs. Raises Transient where its environment can't be
    made.
    """
    name = format_of(recipe.format).environment
    if not name:
        return sys.executable
    keep = store.folder("tmp") / unique_name()
    return locked_python(Context({}, {}, keep, {}, keep, 1), name, manifest["locks"][name])


def problem(findings: list[Finding]) -> str:
    """What is wrong, in a line; "" where nothing is."""
    return "; ".join(f"{f.what}: {f.words}" for f in findings if not f.good)


def marks(folder: Path) -> dict[str, list[int]]:
    """Path -> size, time and inode of every file of a result."""
    found = {}
    for path in sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and p.parts[len(folder.parts)] in ("model.gguf", "model")
    ):
        stat = path.stat()
        found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    manifest = (folder / "manifest.json").stat()
    return found | {"manifest.json": [manifest.st_size, manifest.st_mtime_ns, manifest.st_ino]}


def checked(folder: Path, store: Store) -> str:
    """What is wrong with a result, in a line, or "". A result whose files are those that were found
    sound isn't read again.
    """
    memo = store.root / "meta" / "validated" / f"{folder.name}.json"
    try:
        if json.loads(memo.read_text()) == marks(folder):
            return ""
    except (OSError, ValueError):
        pass
    wrong = problem(validate(folder, store))
    if not wrong:
        write_atomic(memo, json.dumps(marks(folder)))
    return wrong


def show(root: Path, store: Store, studies: list[str]) -> bool:
    """`doit validate`: everything anew, for the latest result or those named. Raises UserError for
    a name without result.
    """
    good = True
    for study in studies or ["latest"]:
        folder = root / "outputs" / study
        if not (folder / "result.json").exists():
            known = sorted(p.parent.name for p in (root / "outputs").glob("*/result.json"))
            hint = nearest(study, known) if known else "run `doit optimize hardware=...` first"
            raise UserError(f"outputs/{study} holds no result: {hint}")
        found = validate(folder.resolve(), store)
        good = good and not problem(found)
        print(f"{folder.resolve().name}: {'not sound' if problem(found) else 'sound'}")
        for finding in found:
            print(f"  {finding.what:<8} {finding.words}")
    return good
