"""Bring a pinned source into the store: a folder, a text file, or a hub model at its commit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.artifact import GGUF_FILE, PERMISSION_NAME, Artifact, File
from sintra.core.errors import Transient
from sintra.core.stage import Context, Params, Stage
from sintra.formats.checkpoint.folder import check_folder, is_model_file
from sintra.formats.checkpoint.json_files import copy_without_mark, has_mark
from sintra.formats.checkpoint.remote_code import write_permission
from sintra.store.files import hash_file

if TYPE_CHECKING:
    from sintra.config.tasks import files as task_files
    from sintra.formats.checkpoint import vocabulary, weights
    from sintra.stages import hub
else:  # the no-op path doesn't need them
    task_files = lazy.module("sintra.config.tasks.files")
    vocabulary = lazy.module("sintra.formats.checkpoint.vocabulary")
    weights = lazy.module("sintra.formats.checkpoint.weights")
    hub = lazy.module("sintra.stages.hub")


def run(context: Context) -> None:
    """Copy or download, and check that the content is what was pinned.

    params: kind (folder, gguf, file, task or hub), digest (of the tree, or the hub's commit), code
    (whether Python files belong to the model); hints: from (path or repository).
    Raises Transient where it isn't.
    """
    kind, digest = context.params["kind"], context.params["digest"]
    code = context.params.get("code", False)
    if kind == "hub":
        hub.download_model(context, context.hints["from"], digest)
        check_downloaded(context.out, code)
        if code:
            write_permission(context.out)
        return
    source = Path(context.hints["from"])
    for name, path in source_files(kind, source, code).items():
        (copy_without_mark if has_mark(path) else shutil.copyfile)(path, context.out / name)
    if code:
        write_permission(context.out)
    files = [File(p.name, p.stat().st_size, hash_file(p)) for p in sorted(context.out.iterdir())]
    if Artifact(tuple(files)).digest != digest:
        raise Transient(f"{source} changed while it was copied")


def check_downloaded(folder: Path, code: bool) -> None:
    """Check what came from the hub as a local folder is checked. Raises UserError."""
    for path in (p for p in folder.iterdir() if has_mark(p)):
        copy_without_mark(path, path)
    found = check_folder(folder, code)
    for path in found.weights:
        weights.refuse_extreme(folder, weights.read_extreme(path), None)
    rows, last = vocabulary.embedding_rows(found.tensors), vocabulary.highest_token(folder)
    vocabulary.refuse_tokens_beyond(folder, rows, last)


def source_files(kind: str, source: Path, code: bool = False) -> dict[str, Path]:
    """Return name in the artifact -> file of a local source. Raises UserError for no model.

    Whether it may be quantized already was decided when it was pinned.
    """
    if kind == "file":
        return {"text.txt": source}
    if kind == "gguf":
        return {GGUF_FILE: source}
    return (
        task_files.task_files(source)
        if kind == "task"
        else {p.name: p for p in check_folder(source, code, quantized=True).files}
    )


def is_pinned_content(params: Params, artifact: Artifact) -> bool:
    """Return whether an artifact is what the parameters pin: a local source by its digest.

    Of a hub model only the commit is pinned, so there the files' names are looked at.
    """
    if params["kind"] != "hub":
        return bool(artifact.digest == params["digest"])
    names = [file.path for file in artifact.files]
    code = bool(params.get("code"))
    known = all(is_model_file(n, code) or (code and n == PERMISSION_NAME) for n in names)
    return known and "config.json" in names


STAGE = Stage("fetch", 1, run, resource="light", check=is_pinned_content, title="Read the model")
