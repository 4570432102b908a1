"""Upload to the Hugging Face hub, only ever on request: HF_TOKEN, and an address that the user
wrote.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sintra.core.errors import Transient, UserError

NAME = r"[\w.-]+/[\w.-]+"


def check_target(repo: str) -> None:
    """Before anything is written. Raises UserError for a malformed repository or a missing token."""
    if not re.fullmatch(NAME, repo):
        raise UserError(f"upload={repo} is no repository: owner/name")
    if not os.environ.get("HF_TOKEN"):
        raise UserError(
            "upload= needs HF_TOKEN in the environment: a token with the right to write"
        )


def upload(folder: Path, repo: str, kind: str, words: str) -> str:
    """Put a folder's files into a repository, which is made, private, where there is none; returns
    its address.

    kind: "model" or "space". Raises Transient with the hub's own words.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=os.environ["HF_TOKEN"])
    try:
        url = api.create_repo(
            repo,
            repo_type=kind,
            private=True,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
        )
        api.upload_folder(folder_path=folder, repo_id=repo, repo_type=kind, commit_message=words)
    except (
        Exception
    ) as error:  # the hub's own errors, and those of whatever HTTP library the client has
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise Transient(
            f"the hub didn't take {repo}: {first}; the folder {folder} is complete"
        ) from None
    return str(url)
