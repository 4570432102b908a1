"""Pin what a study starts from: a local folder by its content, a hub model by its commit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.artifact import GGUF_FILE, Artifact, File, Source
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.errors import Transient, UserError, nearest
from sintra.formats.checkpoint.config_values import trained_context
from sintra.formats.checkpoint.folder import ModelFolder, check_folder
from sintra.formats.checkpoint.json_files import content, has_mark, read_object
from sintra.formats.checkpoint.remote_code import PERMISSION
from sintra.store.files import change_mark, hash_file, read_regular, write_atomic, write_if_possible
from sintra.store.store import Store

if TYPE_CHECKING:
    from sintra.formats.checkpoint import vocabulary, weights
else:  # not every no-op needs them
    vocabulary = lazy.module("sintra.formats.checkpoint.vocabulary")
    weights = lazy.module("sintra.formats.checkpoint.weights")

# What was pinned in this process: a run asks for it at every step of its plan.
_PINNED: dict[tuple[object, ...], Source] = {}
# Files whose tokens have their numbers in them.
BY_ID = ("tokenizer.json", "vocab.json")


def pin_folder(
    folder: Path, digests: Digests, code: bool = False, convert: str | None = None
) -> Source:
    """Pin a local model by the digest of its tree. Raises UserError.

    code: whether its own Python may be run, which is a part of the digest; convert: the type of its
    GGUF, where that is known.
    """
    seen = (folder_mark(folder), code, convert)
    if seen not in _PINNED:
        found = check_folder(folder, code)
        check_content(folder, found, digests, convert)
        files = tuple(pinned_file(path, digests) for path in found.files)
        tree = Artifact(files + ((PERMISSION,) if code else ()))
        _PINNED[seen] = Source("folder", tree.digest, str(folder.resolve()))
    return _PINNED[seen]


def folder_mark(folder: Path) -> tuple[object, ...]:
    """Return what changes when a file of a folder is written to, replaced, added or removed."""
    try:
        files = sorted((e.name, tuple(change_mark(e.stat()))) for e in os.scandir(folder))
    except OSError:  # the check says what is wrong
        files = []
    return (str(folder), *files)


def pin_checkpoint(folder: Path, digests: Digests) -> Source:
    """Pin a GPTQ checkpoint that exists already. Raises UserError."""
    found = check_folder(folder, quantized=True)
    files = tuple(pinned_file(path, digests) for path in found.files)
    return Source("folder", Artifact(files).digest, str(folder.resolve()))


def pinned_file(path: Path, digests: Digests) -> File:
    """Return a model's file as the store will have it: JSON without a byte order mark."""
    if has_mark(path):
        data = content(path)
        return File(path.name, len(data), hashlib.sha256(data).hexdigest())
    return File(path.name, *digests.file(path))


def check_content(folder: Path, found: ModelFolder, digests: Digests, convert: str | None) -> None:
    """Check every weight and the tokenizer's ids of a folder, once for each content.

    convert: as pin_folder has it. Raises UserError.
    """
    for path in found.weights:
        extreme = digests.remember(path, "extreme", partial(_extreme_text, path))
        weights.refuse_extreme(folder, weights.Extreme.parse(str(extreme)), convert)
    file = next((p for p in found.files if p.name in BY_ID), None)
    if file is None:
        return
    last = digests.remember(file, "last", partial(_last_text, folder))
    token = vocabulary.Token.parse(last) if last else None
    vocabulary.refuse_tokens_beyond(folder, vocabulary.embedding_rows(found.tensors), token)


def _extreme_text(path: Path) -> str:
    return weights.read_extreme(path).as_text()


def _last_text(folder: Path) -> str | None:
    token = vocabulary.highest_token(folder)
    return token.as_text() if token else None


def pin_gguf(path: Path, digests: Digests, requantize: bool) -> Source:
    """Pin a GGUF that is a study's model.

    requantize: whether it may be quantized. Raises UserError.
    """
    from sintra.formats.gguf.original import read_quantized_type  # not on most no-op paths

    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}")
    kind = digests.remember(path, "quantized", lambda: read_quantized_type(path))
    if kind is not None and not requantize:
        raise UserError(
            f"{path.name} is quantized already (mostly {kind}): give the 16-bit model, or "
            "model.requantize=true, which counts quality loss from this file on"
        )
    tree = Artifact((File(GGUF_FILE, *digests.file(path)),))
    return Source("gguf", tree.digest, str(path.resolve()))


def pin_file(path: Path, digests: Digests) -> Source:
    """Pin a text by its content. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(
            f"there is no text {str(path)!r} (texts.calibration, texts.search, texts.report, "
            "texts.second)"
        )
    tree = Artifact((File("text.txt", *digests.file(path)),))
    return Source("file", tree.digest, str(path.resolve()))


def pin_wikitext(part: str) -> Source:
    """Pin a part of wikitext-2-raw. Raises UserError where there is no such part."""
    from sintra.stages import wikitext  # not on most no-op paths

    if part not in wikitext.PARTS:
        raise UserError(
            f"wikitext:{part} isn't a part of wikitext-2-raw: {nearest(part, wikitext.PARTS)}"
        )
    return Source("wikitext", sha256(canonical([wikitext.SHA256, part])), part)


def pin_own_text(params: Mapping[str, object]) -> Source:
    """Pin a text that the model writes, by what it depends on beside the model."""
    return Source("own", sha256(canonical(params)), "")


def pin_path(store: Store, repo: str, revision: str) -> Path:
    """Return where the commit of a hub model is recorded."""
    return store.root / "pins" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}.json"


def read_pin(store: Store, repo: str, revision: str) -> Mapping[str, Any]:
    """Return what is recorded of a hub model; empty where nothing is."""
    try:
        return unsealed(read_regular(pin_path(store, repo, revision))) or {}
    except OSError:
        return {}


def hub_context(store: Store, repo: str, revision: str) -> int:
    """Return the context that a hub model was trained for, tokens; 0 where none is recorded."""
    context = read_pin(store, repo, revision).get("context")
    return context if isinstance(context, int) and context > 0 else 0


def pinned_hub(store: Store, repo: str, revision: str) -> Source | None:
    """Return the recorded commit of a hub model; None where none is recorded."""
    commit = read_pin(store, repo, revision).get("commit")
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        return None
    return Source("hub", commit, repo)


def resolve_hub(store: Store, repo: str, revision: str) -> Source:
    """Ask the hub for the commit behind a revision and record it. Raises UserError or Transient."""
    commit = _ask_hub(repo, revision)
    record = {"repo": repo, "revision": revision, "commit": commit}
    text = json.dumps(record | {"context": _ask_context(repo, str(commit))})
    write_atomic(pin_path(store, repo, revision), sealed(text))
    return Source("hub", str(commit), repo)


def _ask_hub(repo: str, revision: str) -> str | None:
    """Return the commit behind a revision, 40 hex digits. Raises UserError or Transient."""
    from huggingface_hub import HfApi  # not on the no-op path
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().model_info(repo, revision=revision).sha
    except GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN and run the same "
            "again"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"the hub has no model {repo!r}, or it is private and HF_TOKEN isn't set"
        ) from None
    except Exception as error:
        raise Transient(
            f"the hub can't be reached to resolve {repo}: {type(error).__name__}; a local folder "
            "needs no network"
        ) from None


def _ask_context(repo: str, commit: str) -> int:
    """Return the context that a hub model's config.json names, tokens; 0 where it can't be had."""
    from huggingface_hub import hf_hub_download  # not on the no-op path

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = hf_hub_download(repo, "config.json", revision=commit, local_dir=folder)
            return trained_context(read_object(Path(path)))
    except Exception:  # the download that follows says what is wrong with the model
        return 0


def is_text(value: object) -> bool:
    """Return whether a value is a text or None."""
    return value is None or isinstance(value, str)


class Digests:
    """The SHA-256 of the user's files, kept by their stat, so that a no-op reads none of them."""

    def __init__(self, path: Path) -> None:
        self.path = path  # the JSON file where they are kept
        try:
            kept = unsealed(read_regular(path))
        except OSError:
            kept = None
        # by the file's absolute path, with #name for what isn't its SHA-256: change mark and value
        self._kept: dict[str, list[Any]] = kept or {}

    def file(self, path: Path) -> tuple[int, str]:
        """Return the size (bytes) and the SHA-256 of a file."""
        return path.stat().st_size, str(self.remember(path, "", lambda: hash_file(path)))

    def remember(self, path: Path, name: str, compute: Callable[[], str | None]) -> str | None:
        """Return what was computed of a file while its stat was the same, else compute it.

        name: of what is computed; "" for the digest.
        """
        mark = change_mark(path.stat())
        location = f"{path.resolve()}{f'#{name}' if name else ''}"
        kept = self._kept.get(location)
        if isinstance(kept, list) and len(kept) == 2 and kept[0] == mark and is_text(kept[1]):
            value: str | None = kept[1]
            return value
        value = compute()
        self._kept[location] = [mark, value]
        write_if_possible(self.path, sealed(canonical(self._kept)))
        return value
