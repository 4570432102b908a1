"""Downloads from the hub: a model at its commit, or a file; a broken transfer is gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context
from sintra.formats.checkpoint.folder import is_model_file
from sintra.formats.checkpoint.safetensors import read_safetensors_header
from sintra.store.files import hash_file

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


def download_model(context: Context, repo: str, commit: str) -> None:
    """Download the model's files of a repository at a commit.

    Raises UserError where the model can't be used, Transient where the download breaks off.
    """
    # Slow to import, and needed for models of the hub only.
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        download_files(context, repo, commit)
    except GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN and run the same "
            "again"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Transient(
            f"the download of {repo} broke off ({type(error).__name__}); run the same again to go "
            "on"
        ) from None
    except Exception as error:
        if isinstance(error, UserError | Transient):
            raise
        raise Transient(
            f"the download of {repo} broke off ({type(error).__name__}: {error}); run the same "
            "again"
        ) from None


def download_files(context: Context, repo: str, commit: str) -> None:
    """Download the files that belong to the model, each checked against the hub's SHA-256.

    They lie in context.keep while they arrive, so that a broken transfer goes on where it stopped.
    Raises UserError where there are no safetensors, and the hub's own errors.
    """
    from huggingface_hub import HfApi  # slow to import, and needed for models of the hub only

    info = HfApi().model_info(repo, revision=commit, files_metadata=True)
    code = context.params.get("code", False)
    files = [file for file in info.siblings or [] if is_model_file(file.rfilename, code)]
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise UserError(
            f"{repo} has no safetensors weights; pickled weights are refused, since they can "
            "run code"
        )
    for file in files:
        context.say(f"{file.rfilename}: {file.size or 0} bytes")
        path = download_file(context.keep, repo, commit, file)
        verify_download(repo, file, path)
        shutil.copyfile(path, context.out / file.rfilename)


def download_file(keep: Path, repo: str, commit: str, file: RepoSibling) -> Path:
    """Download one file, going on where an earlier process stopped.

    hf_hub_download resumes within one process only (huggingface_hub 2.4 gives every process a
    temporary name of its own), so its own http_get is given a file that stays.
    """
    from huggingface_hub import hf_hub_url  # slow to import, and for models of the hub only

    name = str(file.rfilename)
    path = keep / name
    resume_download(hf_hub_url(repo, name, revision=commit), path, file.size)
    return path


def resume_download(url: str, path: Path, size: int | None) -> None:
    """Download a file of the hub unless it is there, going on where an earlier process stopped.

    size: bytes that are expected. Raises the hub's own errors.
    """
    # slow to import, and for what comes from the hub only
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    if path.exists():
        return
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("ab") as handle:
        http_get(
            url, handle, resume_size=handle.tell(), headers=build_hf_headers(), expected_size=size
        )
    part.rename(path)


def verify_download(repo: str, file: RepoSibling, path: Path) -> None:
    """Compare a downloaded file with the SHA-256 that the hub names, and look at its header.

    Raises Transient for another content, and deletes the file, so that it is downloaded anew;
    UserError for a damaged safetensors header.
    """
    lfs = getattr(file, "lfs", None)
    if lfs is not None and hash_file(path) != lfs.sha256:
        path.unlink()
        raise Transient(
            f"{repo}: {file.rfilename} has another SHA-256 than the hub names; run the same again "
            "to fetch it again"
        )
    if path.suffix == ".safetensors":
        read_safetensors_header(path)
