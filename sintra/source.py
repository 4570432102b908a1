"""Pin what a study starts from: a local folder by its content, a hub model by its commit."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from sintra.errors import Transient, UserError
from sintra.store import Digests, Store, write_atomic
from sintra.types import Artifact, File, Source

WANTED = (
    r"(config|generation_config|quantize_config|special_tokens_map|added_tokens|vocab|preprocessor_config)\.json|tokenizer[\w.]*"
    r"|merges\.txt|chat_template\.\w+|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def wanted(name: str) -> bool:
    """Whether a file of a model folder or repository belongs to the model: safetensors, tokenizer, configuration."""
    return re.fullmatch(WANTED, name) is not None


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file (8 bytes of length, then JSON). Raises UserError for a damaged file."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise UserError(f"{path} is truncated: copy or download it again")
        try:
            header: dict[str, Any] = json.loads(handle.read(length))
        except ValueError:
            raise UserError(f"{path} is no safetensors file: its header can't be read") from None
    header.pop("__metadata__", None)
    need = max((t["data_offsets"][1] for t in header.values()), default=0)
    if need + 8 + length != size:
        raise UserError(f"{path} is truncated: {size} bytes where its header names {need + 8 + length}; get it again")
    return header


def check_folder(folder: Path) -> list[Path]:
    """The model's files, after a look at whether they can be a model. Raises UserError in one line."""
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and wanted(p.name))
    weights = [p for p in files if p.suffix == ".safetensors"]
    if not weights:
        if any(p.suffix in PICKLED for p in folder.iterdir()):
            raise UserError(f"{folder} has pickled weights only, which can run code: save them as safetensors first")
        raise UserError(f"{folder} has no weights: expected *.safetensors beside config.json")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json")
    try:
        json.loads((folder / "config.json").read_text())
    except ValueError:
        raise UserError(f"{folder / 'config.json'} is not JSON") from None
    for path in weights:
        safetensors_header(path)
    for index in (p for p in files if p.name.endswith(".index.json")):
        missing = set(json.loads(index.read_text())["weight_map"].values()) - {p.name for p in files}
        if missing:
            raise UserError(f"{folder} lacks {sorted(missing)[0]}, which {index.name} names")
    return files


def pin_folder(folder: Path, digests: Digests) -> Source:
    """A local model by the digest of its tree."""
    files = check_folder(folder)
    tree = Artifact(tuple(File(p.name, *digests.file(p)) for p in files))
    return Source("folder", tree.digest, str(folder.resolve()))


def pin_file(path: Path, digests: Digests) -> Source:
    """A text by its content."""
    if not path.is_file():
        raise UserError(f"there is no text {str(path)!r} (texts.calibration, texts.search, texts.report, texts.second)")
    return Source("file", Artifact((File("text.txt", *digests.file(path)),)).digest, str(path.resolve()))


def pin_path(store: Store, repo: str, revision: str) -> Path:
    """Where the commit of a hub model is recorded."""
    return store.root / "pins" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}.json"


def pinned_hub(store: Store, repo: str, revision: str) -> Source | None:
    """The recorded commit of a hub model, or None."""
    try:
        data = json.loads(pin_path(store, repo, revision).read_bytes())
    except (OSError, ValueError):
        return None
    return Source("hub", data["commit"], repo)


def resolve_hub(store: Store, repo: str, revision: str) -> Source:
    """Ask the hub for the commit behind a revision and record it. Raises UserError or Transient."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo, revision=revision)
    except GatedRepoError:
        raise UserError(f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN and run the same again") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise UserError(f"the hub has no model {repo!r}, or it is private and HF_TOKEN isn't set") from None
    except Exception as error:
        raise Transient(
            f"the hub can't be reached to resolve {repo}: {type(error).__name__}; a local folder needs no network"
        ) from None
    write_atomic(pin_path(store, repo, revision), json.dumps({"repo": repo, "revision": revision, "commit": info.sha}))
    return Source("hub", str(info.sha), repo)
