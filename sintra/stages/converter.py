"""The converter's files, pinned: they are run, so they must be exactly those that were released."""

from __future__ import annotations

from pathlib import Path

from sintra.core.artifact import Artifact, File
from sintra.core.errors import UserError
from sintra.core.stage import Params
from sintra.store.files import hash_file

PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")  # what the converter needs
CONVERTERS = {  # version of llama-cpp-python -> digest of the tree of these parts
    "0.3.36": "cdb72dbd9776a3acbf5d2f21bd3b2772572640d645eb40626bcb2568b1d0268a"
}


def is_pinned_converter(params: Params, artifact: Artifact) -> bool:
    """Return whether an artifact is the converter of the version that the parameters name."""
    return CONVERTERS.get(params["version"]) == artifact.digest


def check_converter(folder: Path) -> None:
    """Check every file of the converter before it is run. Raises UserError for any other tree."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    files = [File(p.relative_to(folder).as_posix(), p.stat().st_size, hash_file(p)) for p in paths]
    if Artifact(tuple(files)).digest not in CONVERTERS.values():
        raise UserError(
            "the files of llama.cpp's converter are not those that Sintra pins, so they are not "
            "run: `doit clean toolchain:llama.cpp`, then run the same again, which fetches them"
        )
