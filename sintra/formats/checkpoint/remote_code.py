"""Whether a model's own Python code may be run: only where the user said so
(model.trust_remote_code=true).

The word is a file of the fetched artifact, so that it is part of every key that depends on it and
stages need no option of their own. The file can't come with a model: it has a name that nobody
takes from a folder or a repository.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from sintra.core.types import File

NAME = "sintra.trust_remote_code"
TEXT = "The user set model.trust_remote_code=true: Python code of this model may be run.\n"
MARK = File(NAME, len(TEXT), hashlib.sha256(TEXT.encode()).hexdigest())


def mark(folder: Path) -> None:
    """Say that the code in this folder may be run."""
    (folder / NAME).write_text(TEXT)


def trusted(folder: Path) -> bool:
    """Whether the code in a fetched model's folder may be run."""
    path = folder / NAME
    return path.is_file() and path.read_text() == TEXT


def home(folder: Path) -> dict[str, str]:
    """Environment variables for a process that reads a model with Hugging Face's libraries: nothing
    is fetched, nothing that was fetched before is taken, and what they unpack lies in `folder`.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(folder),
        "HF_MODULES_CACHE": str(folder / "modules"),
    }


def allowed(folder: Path) -> bool:
    """The same, before transformers is imported: where code may run, it is unpacked into a folder
    of this process's own.
    """
    if not trusted(folder):
        return False
    place = tempfile.mkdtemp(prefix="sintra-code-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    os.environ.update(home(Path(place)))
    return True
