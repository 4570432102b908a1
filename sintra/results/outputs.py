"""The files of outputs/: the winner, and beside it the best of every other format."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.build.graph import Graph
from sintra.core import plugins
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.format import format_of
from sintra.core.judge import ranked
from sintra.core.recipe import Recipe
from sintra.core.stage import tool_version
from sintra.core.types import Artifact, Candidate, Goal
from sintra.planning.other_formats import buildable_formats
from sintra.results import latest, outputs
from sintra.store import history
from sintra.store.files import link_or_copy, write_atomic
from sintra.store.store import Store
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace


def artifact(graph: Graph, store: Store, recipe: Mapping[str, Any]) -> Artifact:
    """What was made of a recipe that stands in a result."""
    made = graph.quantize(Recipe.of(recipe)).outcome(store)
    assert isinstance(made, Artifact)
    return made


def wanted(
    graph: Graph, store: Store, winner: dict[str, Any] | None, known: list[Candidate], goal: Goal
) -> dict[str, Artifact]:
    """Folder below outputs/<study> ("" for the winner's, a format's name for the others') ->
    artifact.
    """
    if winner is None:
        return {}
    found = {"": artifact(graph, store, winner["recipe"])}
    own = Recipe.of(winner["recipe"]).format
    for name in buildable_formats(graph.study):
        best = ranked([c for c in known if c.recipe.format == name], goal)
        if name != own and best:
            found[name] = artifact(graph, store, best[0].recipe.as_json())
    return found


def parts(made: Artifact) -> dict[str, tuple[int, str]]:
    """Path -> size and SHA-256 of what is delivered of an artifact."""
    return {
        f.path: (f.size, f.sha256)
        for f in made.files
        if f.path == "model.gguf" or f.path.startswith("model/")
    }


def sound(store: Store, out: Path, what: dict[str, Artifact]) -> bool:
    """Whether the folder holds them all and nothing else that could be taken for one: by size, and
    not from before a blob was made anew (since the old one was damaged).
    """
    files = {
        Path(folder, path): part
        for folder, made in what.items()
        for path, part in parts(made).items()
    }
    if models(out) != {p.parts[0] for p in files}:
        return False
    return all(
        (out / path).is_file() and _same(out / path, store.blob_path(digest), size)
        for path, (size, digest) in files.items()
    )


def _same(path: Path, blob: Path, size: int) -> bool:
    here, there = path.stat(), blob.stat()
    linked = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return here.st_size == size and (linked or here.st_mtime_ns >= there.st_mtime_ns)


def models(out: Path) -> set[str]:
    """Names in a result's folder that are models."""
    names = {"model.gguf", "model", *plugins.own_names("formats")}
    return {p.name for p in out.iterdir() if p.name in names}


def put(store: Store, out: Path, what: dict[str, Artifact]) -> None:
    """Hard links to the blobs where the filesystem allows them (read-only, like the blobs), else
    copies.
    """
    for name in models(out):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for folder, made in what.items():
        for path, (_, digest) in parts(made).items():
            target = out / folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(store.blob_path(digest), target)
    if not any(path == "model.gguf" for made in [what.get("")] if made for path in parts(made)):
        (out / "model.gguf").unlink(missing_ok=True)


def extra(graph: Graph, store: Store, winner: dict[str, Any] | None) -> dict[str, Artifact]:
    """Folder below outputs/<study> -> what a plugin's stage or probe made of the winner."""
    if winner is None or Recipe.of(winner["recipe"]).format != "gguf":
        return {}
    found = {f"extra/{s.stage}": s.outcome(store) for s in graph.extra(Recipe.of(winner["recipe"]))}
    return {name: made for name, made in found.items() if isinstance(made, Artifact)}


def put_extra(store: Store, out: Path, what: dict[str, Artifact]) -> dict[str, str]:
    """Link the files of plugins; returns path -> SHA-256."""
    shutil.rmtree(out / "extra", ignore_errors=True)
    for folder, made in what.items():
        for file in made.files:
            (out / folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(store.blob_path(file.sha256), out / folder / file.path)
    return {f"{folder}/{f.path}": f.sha256 for folder, made in what.items() for f in made.files}


def digests(what: dict[str, Artifact]) -> dict[str, str]:
    """Path -> SHA-256, for the manifest."""
    return {
        Path(folder, path).as_posix(): digest
        for folder, made in what.items()
        for path, (_, digest) in parts(made).items()
    }


def locks(graph: Graph, store: Store, what: dict[str, Artifact]) -> dict[str, Any]:
    """For the manifest: every version of the libraries that made and measured what isn't GGUF."""
    found = {}
    for name in buildable_formats(graph.study):
        environment = format_of(name).environment
        made = graph.environment(environment).outcome(store) if environment else None
        if isinstance(made, Artifact):
            found[environment] = store.read_json(made, "lock.json")
    return {"locks": found} if found and what else {}


PAGES = ("ab.html", "surgery.html", "report.html")  # drawn from the rest, by their own commands


PER_RUN = ("steps", "wall_s", "llm")


TOOLS = ("llama-cpp-python", "torch", "transformers", "doit", "hydra-core", "gguf")


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two results say the same, apart from what is of a single run."""
    return canonical({k: v for k, v in one.items() if k not in PER_RUN}) == canonical(
        {k: v for k, v in two.items() if k not in PER_RUN}
    )


def deliver(
    workspace: Workspace,
    result: dict[str, Any],
    known: list[Candidate],
    rounds: list[Round],
    graph: Graph,
) -> str:
    """Write outputs/<study>/ unless it says so already, append to the history, and point
    outputs/latest to it if it has a winner that is sound; what is wrong with it otherwise, in a
    line.
    """
    out, winner = workspace.outputs, result["winner"]
    what = outputs.wanted(graph, workspace.store, winner, known, workspace.study.goal)
    with contextlib.suppress(OSError, ValueError):
        unchanged = same(json.loads((out / "result.json").read_text()), result)
        if unchanged and outputs.sound(workspace.store, out, what) and as_written(out):
            remember(workspace, result)
            return (
                latest.promote(workspace.root, workspace.store, workspace.study.id, False)
                if winner
                else ""
            )
    out.mkdir(parents=True, exist_ok=True)
    for name in PAGES:  # of another winner
        (out / name).unlink(missing_ok=True)
    outputs.put(workspace.store, out, what)
    more = outputs.put_extra(workspace.store, out, outputs.extra(graph, workspace.store, winner))
    if winner:
        write_atomic(out / "recipe.yaml", recipe_yaml(result))
    write_atomic(out / "result.json", json.dumps(result, indent=1) + "\n")
    write_atomic(out / "rounds.json", json.dumps(rounds, indent=1) + "\n")
    # Last of the files: until it is there the folder counts as unwritten, so that a kill in between
    # loses none of the above.
    write_atomic(
        out / "manifest.json",
        sealed(json.dumps(manifest(workspace, what, graph, more), indent=1) + "\n"),
    )
    remember(workspace, result)
    return (
        latest.promote(workspace.root, workspace.store, workspace.study.id, True) if winner else ""
    )


def remember(workspace: Workspace, result: dict[str, Any]) -> None:
    """Into the history, unless its last word on this study is the same; a cache that can't be
    written is left as it is.
    """
    digest = sha256(canonical({k: v for k, v in result.items() if k not in PER_RUN}))
    try:
        history.append_result(workspace.store.root / "history.db", result, digest)
    except (sqlite3.OperationalError, OSError) as error:
        print(f"sintra: the history can't be written: {error}", file=sys.stderr)


def as_written(out: Path) -> bool:
    """Whether the small files of a result's folder are those that its manifest names."""
    said = unsealed((out / "manifest.json").read_bytes())
    small = ("result.json", "rounds.json", "recipe.yaml")
    return said is not None and all(
        sha256((out / n).read_text()) == d for n, d in said["files"].items() if n in small
    )


def recipe_yaml(result: dict[str, Any]) -> str:
    """The winner's recipe, replayable with `planner=replay planner.replay=recipe.yaml`."""
    recipe = result["winner"]["recipe"]
    head = (
        f"# {result['study']}: doit optimize ... planner=replay "
        f"planner.replay=outputs/{result['study']}/recipe.yaml\n"
    )
    return head + "recipes:\n- " + json.dumps(recipe) + "\n"


def manifest(
    workspace: Workspace, what: dict[str, Artifact], graph: Graph, more: dict[str, str]
) -> dict[str, Any]:
    """Where everything came from: digests, versions, texts. more: digests of what plugins made."""
    files = outputs.digests(what) | more
    for path in sorted(workspace.outputs.iterdir()):
        if (
            path.is_file()
            and path.name not in ("manifest.json", "model.gguf", *PAGES)
            and not path.name.startswith(".")
        ):
            files[path.name] = sha256(path.read_text())
    return {
        "study": workspace.study.id,
        "sintra": __version__,
        "files": files,
        "overrides": list(workspace.study.overrides),
        "source": {"kind": graph.source.kind, "digest": graph.source.digest},
        "texts": {role: text.digest for role, text in graph.texts.items()},
        "tools": {name: tool_version(name) for name in TOOLS},
    } | outputs.locks(graph, workspace.store, what)
