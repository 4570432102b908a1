"""Tools of other stages: llama.cpp's converter, and environments for libraries that clash.

The converter is that of the installed version of llama-cpp-python, from its source release.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.stage import Context, Stage, tool_version
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import (
    create_virtualenv,
    environment_folder,
    interpreter_path,
    move_into_place,
    write_lock,
)
from sintra.stages.converter import PARTS, is_pinned_converter
from sintra.store.files import hash_file

PINS = {  # version of llama-cpp-python -> SHA-256 of its source release
    "0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
}


def toolchain_params() -> dict[str, str]:
    """Return the toolchain step's parameters: version and SHA-256 of the source release.

    Raises UserError for a version without a pin.
    """
    version = tool_version("llama-cpp-python")
    if version not in PINS:
        raise UserError(
            f"llama-cpp-python {version} has no pinned converter: install {', '.join(PINS)} "
            "(constraints.txt)"
        )
    return {"version": version, "sha256": PINS[version]}


def fetch_converter(context: Context) -> None:
    """Download the source release with pip, and keep the converter and its gguf package.

    Raises Transient where pip can't, UserError where the SHA-256 isn't the pinned one.
    """
    context.keep.mkdir(parents=True, exist_ok=True)
    package = f"llama-cpp-python=={context.params['version']}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "--dest",
        str(context.keep),
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(context.keep.glob("llama_cpp_python-*.tar.gz"))
    if done.returncode or not archives:
        raise Transient(
            f"pip can't download the source of {package}, which holds the converter: is there a "
            "network?"
        )
    if hash_file(archives[0]) != context.params["sha256"]:
        archives[0].unlink()
        raise UserError(
            f"the source of {package} has another SHA-256 than the pinned one: not used"
        )
    extract_converter(archives[0], context.out)


def extract_converter(archive: Path, out: Path) -> None:
    """Extract the converter's files only, without the archive's leading folders."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            if member.isfile() and name.startswith(PARTS):
                member.name = name
                tar.extract(member, out, filter="data")


TOOLCHAIN = Stage(
    "toolchain",
    1,
    fetch_converter,
    resource="light",
    files=PARTS,
    check=is_pinned_converter,
    executed=True,
)


def create_environment(context: Context) -> None:
    """Make an environment, unless the main one has the library, and write its lock.json.

    params: those of sintra.formats.runtime.environments.wanted.
    Raises Infeasible where the main environment has to have it and hasn't, Transient where pip
    can't install it.
    """
    name, root = context.params["name"], context.params["root"]
    if "here" in context.params:
        if context.params["here"][root] == "none":
            raise Infeasible(
                "not_installed",
                f"{root} isn't installed: pip install 'sintra[{name}]', or compress.python=auto",
            )
        write_lock(context)
        return
    folder = create_virtualenv(context, context.params["requirements"])
    call_in_python(
        context, interpreter_path(folder), "sintra.formats.runtime.environments:write_lock"
    )
    lock = json.loads((context.out / "lock.json").read_text())
    move_into_place(folder, environment_folder(context, lock), lock)


ENVIRONMENT = Stage(
    "environment",
    1,
    create_environment,
    resource="light",
    optional=True,
    files=("lock.json",),
    executed=True,
)
