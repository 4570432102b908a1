"""wikitext-2-raw, the text that most published perplexities and divergences are of.

The archive is the one that llama.cpp's own script fetches (scripts/get-wikitext-2.sh), pinned by
the hub's commit and by its SHA-256. Its licence is CC BY-SA 3.0; nothing of it comes with Sintra.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage
from sintra.stages.hub import resume_download
from sintra.store.files import hash_file

REPO = "ggml-org/ci"  # a dataset of the hub
COMMIT = "927b3642933080f1b0e811e2f916e14c292992f9"
ARCHIVE = "wikitext-2-raw-v1.zip"
SHA256 = "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"
SIZE = 4_721_645  # bytes
PARTS = ("train", "valid", "test")


def run(context: Context) -> None:
    """Write the archive. Raises Transient where the download breaks off or is another file."""
    from huggingface_hub import hf_hub_url  # slow to import

    path = context.keep / ARCHIVE
    url = hf_hub_url(REPO, ARCHIVE, repo_type="dataset", revision=COMMIT)
    context.say(f"{REPO}/{ARCHIVE}: {SIZE} bytes")
    try:
        resume_download(url, path, SIZE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Transient(
            f"the download of wikitext broke off ({type(error).__name__}); run the same again to "
            "go on, or give texts=FOLDER"
        ) from None
    check_digest(path)
    shutil.copyfile(path, context.out / ARCHIVE)


def check_digest(path: Path) -> None:
    """Compare a downloaded archive with the pinned SHA-256.

    Raises Transient for another content, and deletes the file, so that it is downloaded anew.
    """
    if hash_file(path) != SHA256:
        path.unlink()
        raise Transient(f"{ARCHIVE} has another SHA-256 than {SHA256[:12]}...; run the same again")


def extract(context: Context) -> None:
    """Write text.txt: the part params["part"] of inputs["archive"]."""
    name = f"wiki.{context.params['part']}.raw"
    with zipfile.ZipFile(context.inputs["archive"] / ARCHIVE) as archive:
        member = next((n for n in archive.namelist() if n.endswith(f"/{name}")), None)
        if member is None:
            raise UserError(f"{ARCHIVE} has no {name}")
        (context.out / "text.txt").write_bytes(archive.read(member))


DOWNLOAD = Stage("wikitext", 1, run, resource="light", files=(ARCHIVE,))
EXTRACT = Stage("extract", 1, extract, resource="light", files=("text.txt",))
