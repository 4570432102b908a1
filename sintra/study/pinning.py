"""Pin what a study starts from: a local folder by its content, a hub model by its commit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sintra.core.canonical import canonical, sealed, unsealed
from sintra.core.errors import Transient, UserError
from sintra.core.types import Artifact, File, Source
from sintra.formats.checkpoint.remote_code import MARK
from sintra.formats.checkpoint.safetensors import check_folder
from sintra.store.files import hash_file, keep, mark, write_atomic
from sintra.store.store import Store


def pin_folder(folder: Path, digests: Digests, code: bool = False) -> Source:
    """A local model by the digest of its tree; with `code`, that its own Python may be run is part
    of that.
    """
    files = check_folder(folder, code)
    tree = Artifact(
        tuple(File(p.name, *digests.file(p)) for p in files) + ((MARK,) if code else ())
    )
    return Source("folder", tree.digest, str(folder.resolve()))


def pin_file(path: Path, digests: Digests) -> Source:
    """A text by its content."""
    if not path.is_file():
        raise UserError(
            f"there is no text {str(path)!r} (texts.calibration, texts.search, texts.report, "
            "texts.second)"
        )
    return Source(
        "file", Artifact((File("text.txt", *digests.file(path)),)).digest, str(path.resolve())
    )


def pin_path(store: Store, repo: str, revision: str) -> Path:
    """Where the commit of a hub model is recorded."""
    return store.root / "pins" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}.json"


def pinned_hub(store: Store, repo: str, revision: str) -> Source | None:
    """The recorded commit of a hub model, or None."""
    try:
        data = unsealed(pin_path(store, repo, revision).read_bytes())
    except OSError:
        return None
    commit = data.get("commit") if data else None
    return (
        Source("hub", commit, repo)
        if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit)
        else None
    )


def resolve_hub(store: Store, repo: str, revision: str) -> Source:
    """Ask the hub for the commit behind a revision and record it. Raises UserError or Transient."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repo, revision=revision)
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
    text = json.dumps({"repo": repo, "revision": revision, "commit": info.sha})
    write_atomic(pin_path(store, repo, revision), sealed(text))
    return Source("hub", str(info.sha), repo)


class Digests:
    """Remembers the SHA-256 of the user's files by their stat, so that a no-op reads no byte of
    them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            known = unsealed(path.read_bytes())
        except OSError:
            known = None
        self._known: dict[str, list[Any]] = known or {}

    def file(self, path: Path) -> tuple[int, str]:
        """Size and SHA-256 of a file."""
        stat = path.stat()
        now = mark(stat)
        known = self._known.get(str(path.resolve()))
        if known and known[0] == now:
            return stat.st_size, str(known[1])
        digest = hash_file(path)
        self._known[str(path.resolve())] = [now, digest]
        keep(self.path, sealed(canonical(self._known)))
        return stat.st_size, digest
