"""outputs/<study>/: plan what the folder holds, write it, seal it with a manifest, promote it.

Beside the winner lies the best variant of every other format, and what plugins made of the winner.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.core import plugins
from sintra.core.artifact import Artifact, File
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.format import format_of
from sintra.core.judge import settled
from sintra.core.recipe import Recipe
from sintra.core.stage import tool_version
from sintra.core.types import Candidate
from sintra.planning.other_formats import buildable_formats
from sintra.results import latest
from sintra.store import history
from sintra.store.files import (
    hash_file,
    link_or_copy,
    make_folder,
    read_regular,
    remove_path,
    write_atomic,
)
from sintra.store.sound_files import SoundFiles
from sintra.store.store import Store
from sintra.study.json_types import ManifestJson, ResultJson, RoundJson
from sintra.study.round_files import Round
from sintra.study.variant_names import study_names
from sintra.study.workspace import Workspace

PAGES = ("ab.html", "surgery.html", "report.html")  # drawn from the rest, by their own commands
GOES_ON = "the study goes on"  # reason of a result that is delivered before the study's end
PER_RUN = ("steps", "wall_s", "llm")  # keys of result.json that are of the run that wrote it
TOOLS = ("llama-cpp-python", "torch", "transformers", "doit", "hydra-core", "gguf")
TEXT_FILES = ("result.json", "rounds.json", "recipe.yaml")

Models = dict[str, Artifact]
"""Folder below outputs/<study> -> artifact: "" for the winner, else the name of the format."""
Makers = dict[str, Step]
"""Folder below outputs/<study> -> the step that made what it holds."""


@dataclass(frozen=True)
class Delivery:
    """What outputs/<study>/ is to hold."""

    workspace: Workspace
    graph: Graph
    result: ResultJson
    rounds: Sequence[Round]
    models: Models
    plugin_files: dict[str, Artifact]  # folder below outputs/<study> -> what a plugin made
    makers: Makers  # of all these artifacts
    sound: SoundFiles  # files that were found to have their SHA-256

    @property
    def folder(self) -> Path:
        """outputs/<study>/."""
        return self.workspace.outputs

    @property
    def store(self) -> Store:
        """The cache with all files."""
        return self.workspace.store

    @property
    def files(self) -> list[tuple[str, File]]:
        """Every file of an artifact that is delivered, with its folder below outputs/<study>."""
        models = [(name, f) for name, made in self.models.items() for f in model_files(made)]
        return models + [(name, f) for name, made in self.plugin_files.items() for f in made.files]

    def target(self, folder: str, file: File) -> Path:
        """Where a file of an artifact lies in outputs/<study>/."""
        return self.folder / folder / file.path


def deliver(
    workspace: Workspace,
    result: ResultJson,
    candidates: Sequence[Candidate],
    rounds: Sequence[Round],
    graph: Graph,
) -> str:
    """Write outputs/<study>/ unless it holds the result already, add the result to the history, and
    point outputs/latest to it. Returns what is wrong with a winner's files, in a line, else "".
    """
    delivery = plan_delivery(workspace, result, candidates, rounds, graph)
    changed = not is_delivered(delivery)
    if changed:
        write_files(delivery)
        seal_folder(delivery)
    delivery.sound.save()
    append_to_history(workspace, result)
    return promote_winner(delivery, changed)


def deliver_early(
    workspace: Workspace,
    result: ResultJson,
    candidates: Sequence[Candidate],
    rounds: Sequence[Round],
    graph: Graph,
) -> bool:
    """Write outputs/<study>/ while the study goes on, and point outputs/latest to it.

    Returns False where it holds the winner already, or where the winner's files aren't good. A
    study that was concluded before keeps its result until it is concluded again.
    """
    delivery = plan_delivery(workspace, result, candidates, rounds, graph)
    if not delivery.models or stays(delivery):
        return False
    write_files(delivery)
    seal_folder(delivery)
    delivery.sound.save()
    return not promote_winner(delivery, True)


def stays(delivery: Delivery) -> bool:
    """Return whether what the folder holds stays while the study goes on.

    That is the result of a study that has ended, or this very winner, whatever was measured beside.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(read_regular(delivery.folder / "result.json"))
        same = held["winner"] == delivery.result["winner"]
        return bool(held["reason"] != GOES_ON or (same and has_models(delivery)))
    return False


def plan_delivery(
    workspace: Workspace,
    result: ResultJson,
    candidates: Sequence[Candidate],
    rounds: Sequence[Round],
    graph: Graph,
) -> Delivery:
    """Choose the artifacts that the folder is to hold."""
    store = workspace.store
    models, others = Makers(), Makers()
    if result["winner"]:
        winner = Recipe.of(result["winner"]["recipe"])
        models = model_steps(workspace, graph, winner, candidates)
        others = plugin_steps(graph, winner) | own_texts(graph)
    sound = SoundFiles(store.root / "meta" / "delivered" / f"{workspace.study.id}.json")
    made, more = artifacts_of(models, store), artifacts_of(others, store)
    return Delivery(workspace, graph, result, rounds, made, more, models | others, sound)


def artifacts_of(makers: Makers, store: Store) -> dict[str, Artifact]:
    """Return what steps have made, without those that failed."""
    outcomes = {name: step.outcome(store) for name, step in makers.items()}
    return {name: made for name, made in outcomes.items() if isinstance(made, Artifact)}


def damaged_makers(delivery: Delivery) -> list[Step]:
    """Return the steps with a file that is sound neither in the folder nor in the cache.

    Their blobs are in quarantine afterwards, so that the steps can be built again. A file whose
    size, times and inode are those of the last look isn't read.
    """
    damaged = {
        folder: delivery.makers[folder]
        for folder, file in delivery.files
        if not delivery.sound.is_sound(delivery.target(folder, file), file.sha256)
        and not delivery.sound.is_sound(delivery.store.blob_path(file.sha256), file.sha256)
        and not delivery.store.check_blob(file)
    }
    delivery.sound.save()
    return list(damaged.values())


def is_delivered(delivery: Delivery) -> bool:
    """Return whether the folder holds the same result already, but for what is of a single run."""
    out = delivery.folder
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
        return (
            is_same_result(json.loads(read_regular(out / "result.json")), delivery.result)
            and has_text_files(out)
            and has_models(delivery)
        )
    return False


def write_files(delivery: Delivery) -> None:
    """Write everything but the manifest; pages of an earlier winner go."""
    out, result, workspace = delivery.folder, delivery.result, delivery.workspace
    names = study_names(workspace.graph(), workspace.store, delivery.rounds)
    make_folder(out)
    for name in PAGES:
        remove_path(out / name)
    link_files(delivery)
    if result["winner"]:
        write_atomic(out / "recipe.yaml", recipe_yaml(result))
    write_atomic(out / "result.json", json.dumps(result, indent=1) + "\n")
    rounds = [named_round(r, names) for r in delivery.rounds]
    write_atomic(out / "rounds.json", json.dumps(rounds, indent=1, sort_keys=True) + "\n")


def named_round(study_round: Round, names: Mapping[Recipe, str]) -> RoundJson:
    """Return a round as it stands in outputs/: its proposals have the names of their variants."""
    data = study_round.to_json()
    for row, proposal in zip(data["proposals"], study_round.proposals, strict=True):
        row["name"] = names[proposal.recipe]
    return data


def seal_folder(delivery: Delivery) -> None:
    """Write manifest.json, without which the folder counts as unwritten: a kill before this point
    loses nothing, since the next run writes all files again.
    """
    text = json.dumps(manifest_json(delivery), indent=1) + "\n"
    write_atomic(delivery.folder / "manifest.json", sealed(text))


def promote_winner(delivery: Delivery, changed: bool) -> str:
    """Point outputs/latest to the study if it has a winner whose files are good; what is wrong with
    them otherwise, in a line.
    """
    if not delivery.result["winner"]:
        return ""
    workspace = delivery.workspace
    return latest.promote(workspace.root, workspace.store, workspace.study.id, changed)


def append_to_history(workspace: Workspace, result: ResultJson) -> None:
    """Add the result to the history unless its last row on this study is the same; a cache that
    can't be written is left as it is.
    """
    digest = sha256(canonical(lasting_part(result)))
    try:
        history.append_result(workspace.store.root / "history.db", result, digest)
    except (sqlite3.OperationalError, OSError) as error:
        print(f"sintra: the history can't be written: {error}", file=sys.stderr)


def lasting_part(result: ResultJson) -> dict[str, Any]:
    """Return a result without what is of a single run."""
    return {k: v for k, v in result.items() if k not in PER_RUN}


def is_same_result(one: ResultJson, two: ResultJson) -> bool:
    """Return whether two results are equal, apart from what is of a single run."""
    return canonical(lasting_part(one)) == canonical(lasting_part(two))


def model_steps(
    workspace: Workspace, graph: Graph, winner: Recipe, candidates: Sequence[Candidate]
) -> Makers:
    """Return the winner's step, and that of the best variant of every other format."""
    goal = workspace.study.goal
    models = {"": graph.quantize(winner)}
    for name in buildable_formats(graph.study):
        order = settled([c for c in candidates if c.recipe.format == name], goal)
        if name != winner.format and order:
            models[name] = graph.quantize(order[0].recipe)
    return models


def plugin_steps(graph: Graph, winner: Recipe) -> Makers:
    """Return folder below outputs/<study> -> a plugin's stage or probe of the winner."""
    if winner.format != "gguf":
        return {}
    return {f"extra/{step.stage}": step for step in graph.extra(winner)}


def own_texts(graph: Graph) -> Makers:
    """Return folder below outputs/<study> -> the step of a text that the model writes."""
    roles = [role for role, source in graph.texts.items() if source.kind == "own"]
    return {f"texts/{role}": graph.text(role) for role in roles}


def model_files(artifact: Artifact) -> list[File]:
    """Return those files of an artifact that are the model."""
    return [f for f in artifact.files if f.path == "model.gguf" or f.path.startswith("model/")]


def has_models(delivery: Delivery) -> bool:
    """Return whether the folder holds all models and plugins' files, sound, and no other model.

    A file is read where its size, times or inode have changed since it was found to be sound.
    """
    named = {Path(folder, file.path).parts[0] for folder, file in delivery.files}
    present = model_names(delivery.folder, delivery.models)
    return present <= named and all(
        delivery.sound.is_sound(delivery.target(folder, file), file.sha256)
        for folder, file in delivery.files
    )


def link_files(delivery: Delivery) -> None:
    """Put all files of artifacts into the folder, and remember those that are sound.

    A link to a blob that has just been looked at isn't read again; a copy is.
    """
    store, sound = delivery.store, delivery.sound
    blobs = {file.sha256: store.blob_path(file.sha256) for _, file in delivery.files}
    good = {digest for digest, blob in blobs.items() if sound.is_sound(blob, digest)}
    link_models(store, delivery.folder, delivery.models)
    link_plugin_files(store, delivery.folder, delivery.plugin_files)
    for folder, file in delivery.files:
        target = delivery.target(folder, file)
        if file.sha256 in good and target.samefile(blobs[file.sha256]):
            sound.remember(target, file.sha256)
        else:
            sound.is_sound(target, file.sha256)


def model_names(out: Path, formats: Iterable[str]) -> set[str]:
    """Return the names in a result's folder that are models; formats: of plugins, too."""
    names = {"model.gguf", "model", *plugins.own_names("formats"), *formats}
    return {path.name for path in out.iterdir() if path.name in names}


def has_text_files(out: Path) -> bool:
    """Return whether the text files of a result's folder are those that its manifest names."""
    manifest = unsealed(read_regular(out / "manifest.json"))
    return manifest is not None and all(
        hash_file(out / name) == digest
        for name, digest in manifest["files"].items()
        if name in TEXT_FILES
    )


def link_models(store: Store, out: Path, models: Models) -> None:
    """Replace the folder's models by hard links to the blobs where the filesystem allows them
    (read-only, like the blobs), else by copies.
    """
    for name in model_names(out, models):
        if (out / name).is_dir():
            remove_path(out / name)
    for folder, artifact in models.items():
        for file in model_files(artifact):
            link_file(store, file, out / folder / file.path)
    if "" not in models or not any(f.path == "model.gguf" for f in model_files(models[""])):
        remove_path(out / "model.gguf")


def link_plugin_files(store: Store, out: Path, artifacts: dict[str, Artifact]) -> None:
    """Replace the folder's files of plugins."""
    shutil.rmtree(out / "extra", ignore_errors=True)
    for folder, artifact in artifacts.items():
        for file in artifact.files:
            link_file(store, file, out / folder / file.path)


def link_file(store: Store, file: File, target: Path) -> None:
    """Put a file of an artifact into the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(store.blob_path(file.sha256), target)


def recipe_yaml(result: ResultJson) -> str:
    """Return the winner's recipe, replayable with `planner=replay planner.replay=recipe.yaml`."""
    assert result["winner"] is not None
    head = (
        f"# {result['study']}: doit optimize ... planner=replay "
        f"planner.replay=outputs/{result['study']}/recipe.yaml\n"
    )
    return head + "recipes:\n- " + json.dumps(result["winner"]["recipe"]) + "\n"


def manifest_json(delivery: Delivery) -> ManifestJson:
    """Return where everything came from: digests of all files, versions, texts."""
    graph = delivery.graph
    manifest: ManifestJson = {
        "study": delivery.workspace.study.id,
        "sintra": __version__,
        "files": file_digests(delivery),
        "overrides": list(delivery.workspace.study.overrides),
        "source": {"kind": graph.source.kind, "digest": graph.source.digest},
        "texts": {role: text.digest for role, text in graph.texts.items()},
        "tools": {name: tool_version(name) for name in TOOLS},
    }
    locks = environment_locks(graph, delivery.store)
    if locks and delivery.models:
        manifest["locks"] = locks
    return manifest


def file_digests(delivery: Delivery) -> dict[str, str]:
    """Return path below the folder -> SHA-256 of all files but the manifest and pages."""
    digests = {
        Path(folder, file.path).as_posix(): file.sha256
        for folder, artifact in delivery.models.items()
        for file in model_files(artifact)
    }
    digests |= {
        f"{folder}/{file.path}": file.sha256
        for folder, artifact in delivery.plugin_files.items()
        for file in artifact.files
    }
    for path in sorted(delivery.folder.iterdir()):
        if is_text_file(path):
            digests[path.name] = sha256(path.read_text())
    return digests


def is_text_file(path: Path) -> bool:
    """Return whether a file of the folder is neither model, manifest, page nor hidden."""
    apart = ("manifest.json", "model.gguf", *PAGES)
    return path.is_file() and path.name not in apart and not path.name.startswith(".")


def environment_locks(graph: Graph, store: Store) -> dict[str, Any]:
    """Return environment -> versions of the libraries that made and measured other formats."""
    locks = {}
    for name in buildable_formats(graph.study):
        if environment := format_of(name).environment:
            outcome = graph.environment(environment).outcome(store)
            if isinstance(outcome, Artifact):
                locks[environment] = store.read_json(outcome, "lock.json")
    return locks
