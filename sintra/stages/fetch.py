"""Bring a pinned source into the store: a local folder, a text file, or a hub model at its commit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sintra.config.tasks import task_files
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage
from sintra.core.types import Artifact, File
from sintra.formats.checkpoint.remote_code import write_permission
from sintra.formats.checkpoint.safetensors import (
    check_folder,
    is_model_file,
    read_safetensors_header,
)
from sintra.store.files import hash_file


def run(context: Context) -> None:
    """Copy or download, and check that the content is what was pinned."""
    kind, digest, code = (
        context.params["kind"],
        context.params["digest"],
        context.params.get("code", False),
    )
    if kind == "hub":
        download(context, context.hints["from"], digest)
        check_folder(context.out, code)
        if code:
            write_permission(context.out)
        return
    place = Path(context.hints["from"])
    for name, path in listed(kind, place, code).items():
        shutil.copyfile(path, context.out / name)
    if code:
        write_permission(context.out)
    files = [File(p.name, p.stat().st_size, hash_file(p)) for p in sorted(context.out.iterdir())]
    if Artifact(tuple(files)).digest != digest:
        raise Transient(f"{place} changed while it was copied")


def listed(kind: str, place: Path, code: bool = False) -> dict[str, Path]:
    """Name in the artifact -> file of a local source."""
    if kind == "file":
        return {"text.txt": place}
    return task_files(place) if kind == "task" else {p.name: p for p in check_folder(place, code)}


def download(context: Context, repo: str, commit: str) -> None:
    """Every wanted file of the repository at the commit, each checked against the hub's SHA-256.

    Files lie in context.keep while they arrive, so that a broken transfer goes on where it stopped.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        info = HfApi().model_info(repo, revision=commit, files_metadata=True)
        files = [
            s
            for s in info.siblings or []
            if is_model_file(s.rfilename, context.params.get("code", False))
        ]
        if not any(s.rfilename.endswith(".safetensors") for s in files):
            raise UserError(
                f"{repo} has no safetensors weights; pickled weights are refused, since they can "
                "run code"
            )
        for item in files:
            context.say(f"{item.rfilename}: {item.size or 0} bytes")
            path = transfer(context.keep, repo, commit, item)
            check(repo, item, path)
            shutil.copyfile(path, context.out / item.rfilename)
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


def transfer(keep: Path, repo: str, commit: str, item: Any) -> Path:
    """Fetch one file, going on where an earlier process stopped.

    hf_hub_download resumes within one process only (huggingface_hub 2.4 gives every process a
    temporary name of its own), so its own http_get is given a file that stays.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    keep.mkdir(parents=True, exist_ok=True)
    name = str(item.rfilename)
    path, part = keep / name, keep / f"{name}.part"
    if not path.exists():
        with part.open("ab") as handle:
            url = hf_hub_url(repo, name, revision=commit)
            http_get(
                url,
                handle,
                resume_size=handle.tell(),
                headers=build_hf_headers(),
                expected_size=item.size,
            )
        part.rename(path)
    return path


def check(repo: str, item: Any, path: Path) -> None:
    """Compare a downloaded file with the hub's word on it; a wrong one is deleted, so that it is
    fetched anew.
    """
    lfs = getattr(item, "lfs", None)
    if lfs is not None and hash_file(path) != lfs.sha256:
        path.unlink()
        raise Transient(
            f"{repo}: {item.rfilename} has another SHA-256 than the hub names; run the same again "
            "to fetch it anew"
        )
    if path.suffix == ".safetensors":
        read_safetensors_header(path)


STAGE = Stage("fetch", 1, run, resource="light")
