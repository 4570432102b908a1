"""Decide whether a model's own Python code may be run: only where the user allowed it with
model.trust_remote_code=true.

The permission is a file of the fetched artifact, so that it is part of every key that depends on it
and stages need no option of their own. The file can't come with a model: it has a name that is
never taken from a folder or a repository.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from sintra.core.artifact import PERMISSION_NAME, File

PERMISSION_TEXT = (
    "The user set model.trust_remote_code=true: Python code of this model may be run.\n"
)
PERMISSION = File(
    PERMISSION_NAME,
    len(PERMISSION_TEXT),
    hashlib.sha256(PERMISSION_TEXT.encode()).hexdigest(),
)


def write_permission(folder: Path) -> None:
    """Write the file that allows the code in this folder to be run."""
    (folder / PERMISSION_NAME).write_text(PERMISSION_TEXT)


def has_permission(folder: Path) -> bool:
    """Return whether the code in a fetched model's folder may be run."""
    path = folder / PERMISSION_NAME
    return path.is_file() and path.read_text() == PERMISSION_TEXT


def isolated_environment(folder: Path) -> dict[str, str]:
    """Return environment variables for a process that reads a model with Hugging Face's libraries.

    With them nothing is downloaded, earlier downloads are not used, and what the libraries unpack
    lies in `folder`.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(folder),
        "HF_MODULES_CACHE": str(folder / "modules"),
    }


def allow_in_process(folder: Path) -> bool:
    """Return whether a model's own code may be run; call it before importing transformers.

    Where code may run, this process's environment changes: the code is unpacked into a folder of
    its own that is removed at exit.
    """
    if not has_permission(folder):
        return False
    unpacked = tempfile.mkdtemp(prefix="sintra-code-")
    atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
    os.environ.update(isolated_environment(Path(unpacked)))
    return True
