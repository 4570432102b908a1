"""Validation of a result in outputs/: every file has its SHA-256, the model loads, and it answers.

outputs/latest moves only to a valid result. A result that was found valid is recorded in the cache
by size and time of its files (losing that costs time), so that going back and forth between two
studies reads no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.artifact import Artifact, File
from sintra.core.errors import Transient, UserError, nearest
from sintra.core.format import format_of
from sintra.core.recipe import Recipe
from sintra.core.stage import Context, cores
from sintra.core.text import printable_line
from sintra.formats.runtime.call import PACKAGE_ROOT
from sintra.formats.runtime.environments import locked_python
from sintra.results.load_check import LoadOrder
from sintra.results.result import model_file
from sintra.store.files import hash_file, read_regular, unique_name, write_atomic
from sintra.store.store import Store
from sintra.study.json_types import CandidateJson, ManifestJson
from sintra.study.result_upgrade import parse_result

START = (
    f"import sys; sys.path.append({PACKAGE_ROOT!r}); "
    "from sintra.results.load_check import print_reply; sys.exit(print_reply(sys.argv[1:]))"
)
TIMEOUT_S = 1800


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    what: str  # "files", "winner" or "answers"
    good: bool
    words: str  # what was checked, or what is wrong


def result_folder(root: Path, study: str) -> Path:
    """Return outputs/<study>. Raises UserError with the nearest name where it holds no result."""
    folder = root / "outputs" / study
    if (folder / "result.json").is_file():
        return folder
    studies = sorted(path.parent.name for path in (root / "outputs").glob("*/result.json"))
    hint = nearest(study, studies) if studies else "run `doit optimize hardware=...` first"
    raise UserError(f"outputs/{study} holds no result: {hint}")


def print_findings(root: Path, store: Store, studies: list[str]) -> bool:
    """`doit validate`: check the latest result or those named, and return whether all are valid.

    Raises UserError for a name without a result.
    """
    good = True
    for study in studies or ["latest"]:
        folder = result_folder(root, study).resolve()
        findings = validate(folder, store)
        valid = not problem(findings)
        good = good and valid
        print(f"{folder.name}: {'sound' if valid else 'not sound'}")
        for finding in findings:
            print(f"  {finding.what:<8} {printable_line(finding.words)}")
    return good


def cached_problem(folder: Path, store: Store) -> str:
    """Return what is wrong with a result, in a line, or "".

    A result whose files are those that were found valid isn't read again.
    """
    record = store.root / "meta" / "validated" / f"{folder.name}.json"
    try:
        if json.loads(read_regular(record)) == file_marks(folder):
            return ""
    except (OSError, ValueError):
        pass
    wrong = problem(validate(folder, store))
    if not wrong:
        write_atomic(record, json.dumps(file_marks(folder)))
    return wrong


def file_marks(folder: Path) -> dict[str, list[int]]:
    """Return path -> size, time (ns) and inode of a result's model files and of its manifest."""
    below = len(folder.parts)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.parts[below] in ("model.gguf", "model")
    )
    return {
        path.relative_to(folder).as_posix(): file_mark(path)
        for path in (*files, folder / "manifest.json")
    }


def file_mark(path: Path) -> list[int]:
    """Return a file's size (bytes), modification time (ns) and inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def problem(findings: list[Finding]) -> str:
    """Return what is wrong, in a line; "" where nothing is."""
    return printable_line("; ".join(f"{f.what}: {f.words}" for f in findings if not f.good))


def validate(folder: Path, store: Store) -> list[Finding]:
    """Check a result's files and its model; a model whose bytes are wrong is not loaded."""
    try:
        result = parse_result(read_regular(folder / "result.json"))
        manifest: ManifestJson = json.loads(read_regular(folder / "manifest.json"))
        winner, listed = result["winner"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"result.json or manifest.json can't be read: {type(error).__name__}: {error}"
        return [Finding("files", False, words)]
    if not winner:
        return [Finding("winner", False, f"there is none: {result['status']}")]
    files = check_files(folder, listed, winner)
    return [files, check_answer(folder, manifest, winner, store)] if files.good else [files]


def check_files(folder: Path, listed: dict[str, str], winner: CandidateJson) -> Finding:
    """Rehash every file that the manifest lists (path -> SHA-256), and compare the winner's digest
    with that of the measured model.
    """
    wrong = []
    for name, expected in sorted(listed.items()):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (actual := hash_file(path)) != expected:
            wrong.append(f"{name} has the SHA-256 {actual[:12]} where {expected[:12]} was written")
    if not wrong and model_digest(folder, listed, winner) != model_file(winner)["sha256"]:
        wrong.append("the model isn't the one whose measurements stand in result.json")
    words = "; ".join(wrong) or f"{len(listed)} files have their SHA-256"
    return Finding("files", not wrong, words)


def model_digest(folder: Path, listed: dict[str, str], winner: CandidateJson) -> str | None:
    """Return the winner's digest by the manifest: of its GGUF, or of its folder's tree."""
    if model_file(winner)["path"] == "model.gguf":
        return listed.get("model.gguf")
    tree = [
        File(name, (folder / name).stat().st_size, digest)
        for name, digest in listed.items()
        if name.startswith("model/")
    ]
    return Artifact(tuple(tree)).digest


def check_answer(
    folder: Path, manifest: ManifestJson, winner: CandidateJson, store: Store
) -> Finding:
    """Check that the model loads and answers, in a process of its own with the winner's runtime."""
    recipe = Recipe.of(winner["recipe"])
    order: LoadOrder = {
        "model": str(folder / model_file(winner)["path"]),
        "kv": recipe.kv,
        "threads": thread_count(),
    }
    try:
        done = run_load_check(interpreter(recipe, manifest, store), order)
    except subprocess.TimeoutExpired:
        return Finding("answers", False, f"no answer within {TIMEOUT_S} s")
    except Transient as error:
        return Finding("answers", False, str(error))
    try:
        reply = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last_words = done.stderr.strip()[-200:] or "no word"
        return Finding("answers", False, f"its process ended with {done.returncode}: {last_words}")
    return reply_finding(reply)


def run_load_check(python: str, order: LoadOrder) -> subprocess.CompletedProcess[str]:
    """Run sintra.results.load_check in another Python. Raises TimeoutExpired."""
    return subprocess.run(
        [python, "-c", START, json.dumps(order)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "SINTRA_PARENT": str(os.getpid())},
    )


def reply_finding(reply: dict[str, Any]) -> Finding:
    """Return what the reply of sintra.results.load_check says of the model."""
    if "error" in reply:
        return Finding("answers", False, reply["error"])
    words = f"{reply['runtime']}: {reply['text'] or reply['tokens']!r}"
    return Finding("answers", bool(reply["tokens"]), words)


def thread_count() -> int:
    """Return the number of cores, or less where OMP_NUM_THREADS asks for less."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(limit)) if limit.isdigit() and int(limit) else cores()


def interpreter(recipe: Recipe, manifest: ManifestJson, store: Store) -> str:
    """Return the Python that the winner's format needs. Raises Transient where its environment
    can't be made.
    """
    name = format_of(recipe.format).environment
    if not name:
        return sys.executable
    folder = store.folder("tmp") / unique_name()
    return locked_python(Context({}, {}, folder, {}, folder, 1), name, manifest["locks"][name])
