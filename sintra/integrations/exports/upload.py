"""Upload to the Hugging Face hub, only on request: needs HF_TOKEN and `upload=owner/name`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from sintra.core.errors import Transient, UserError

REPOSITORY = r"[\w.-]+/[\w.-]+"
LICENSE = r"[a-z0-9.+-]+"


def check_license(license: str) -> None:
    """Check that a license, if any, looks like an identifier of the hub. Raises UserError."""
    if license and not re.fullmatch(LICENSE, license):
        raise UserError(
            f"license={license} isn't an identifier of the hub's: apache-2.0, mit, llama3.1, "
            "other, ..."
        )


def check_upload(repository: str) -> None:
    """Check the address of an upload, if any, before anything is written.

    Raises UserError for a malformed repository or a missing token.
    """
    if not repository:
        return
    if not re.fullmatch(REPOSITORY, repository):
        raise UserError(f"upload={repository} is not a repository: owner/name")
    if not os.environ.get("HF_TOKEN"):
        raise UserError(
            "upload= needs HF_TOKEN in the environment: a token with the right to write"
        )


def upload_folder(
    folder: Path, repository: str, kind: Literal["model", "space"], message: str
) -> str:
    """Put a folder's files into a repository and return its address.

    A repository that isn't there is made, private. message: of the commit. Raises Transient with
    the hub's own words.
    """
    from huggingface_hub import HfApi  # only an upload needs it

    api = HfApi(token=os.environ["HF_TOKEN"])
    try:
        url = api.create_repo(
            repository,
            repo_type=kind,
            private=True,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
        )
        api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type=kind, commit_message=message
        )
    except Exception as error:  # the hub's own errors, and those of the client's HTTP library
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise Transient(
            f"the hub didn't take {repository}: {first}; the folder {folder} is complete"
        ) from None
    return str(url)
