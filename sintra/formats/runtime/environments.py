"""Environments of their own for libraries that clash with the main one.

llmcompressor caps transformers below ours, GPTQModel pins another numpy: each gets a virtual
environment in the cache, laid over the main one, so that only what clashes is installed again. What
a library and everything it needs come to, as versions, is its lock; the lock, not the folder, is
what keys depend on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.canonical import canonical, sha256
from sintra.core.errors import Transient
from sintra.core.stage import Context, tool_version
from sintra.store.files import unique_name

SHARED = ("torch", "numpy", "safetensors", "accelerate", "sentencepiece")
PIP = (sys.executable, "-m", "pip")


@dataclass(frozen=True)
class Environment:
    """root: the distribution it is there for; requirements: what pip is asked for, pinned."""

    root: str
    requirements: tuple[str, ...]


ENVIRONMENTS = {
    # The last release that runs with torch 2.13; it needs transformers 5.15 to 5.17.
    "compressor": Environment("llmcompressor", ("llmcompressor==0.14.0.1", "protobuf>=6")),
    # 7.7 needs torch 2.14.1; transformers loads what it writes through optimum.
    "gptq": Environment("gptqmodel", ("gptqmodel==7.6.0", "optimum==2.3.0")),
    # It pins typing-extensions below 4.13, which ours has outgrown.
    "tflite": Environment("litert-torch", ("litert-torch==0.10.0", "ai-edge-quantizer==0.10.0")),
}


def environment_params(name: str, python: str) -> dict[str, Any]:
    """An environment step's parameters. python: "auto" (the main environment where it has the
    library, else one of its own) or "here" (only the main one).
    """
    environment = ENVIRONMENTS[name]
    shared = {n: tool_version(n) for n in SHARED}
    known: dict[str, Any] = {
        "name": name,
        "root": environment.root,
        "shared": shared,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }
    here = tool_version(environment.root)
    if python == "here" or here != "none":
        return known | {
            "here": {
                n: tool_version(n)
                for n in (environment.root, "transformers", "compressed-tensors", "optimum")
            }
        }
    return known | {"requirements": list(environment.requirements)}


def installed_closure(root: str) -> dict[str, str]:
    """Name -> version of a distribution and of everything that it needs, as this Python sees them."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    left = [root]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            own = distribution(name)
        except PackageNotFoundError:
            continue  # an optional part
        found[name] = own.version
        needs = [Requirement(r) for r in own.requires or []]
        left += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def write_lock(context: Context) -> None:
    """Write lock.json: the versions, as the Python that runs this sees them."""
    context.write_json("lock.json", installed_closure(context.params["root"]))


def environment_folder(context: Context, lock: dict[str, str]) -> Path:
    """Where an environment with this lock lies; another main environment has others."""
    return context.keep.parents[1] / "envs" / sha256(canonical([lock, sys.prefix]))[:16]


def locked_python(context: Context, name: str, lock: dict[str, str]) -> str:
    """The Python whose versions are the lock's: this one, or that of the environment, built again
    where it is gone.
    """
    root = ENVIRONMENTS[name].root
    if tool_version(root) == lock.get(root):
        return sys.executable
    folder = environment_folder(context, lock)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (folder / "lock.json").exists():
            context.say(f"the environment {name} is built again")
            made = create_virtualenv(
                context, [f"{n}=={v.partition('+')[0]}" for n, v in sorted(lock.items())]
            )
            move_into_place(made, folder, lock)
    return interpreter_path(folder)


def unlocked_python(context: Context, name: str) -> str:
    """The Python of an environment that no lock asks for: this one where it has the library, else
    one made for its requirements, once. Raises Transient where pip can't.
    """
    environment = ENVIRONMENTS[name]
    if tool_version(environment.root) != "none":
        return sys.executable
    kept = {n: tool_version(n) for n in (*SHARED, "transformers")}
    wanted = [*environment.requirements, *(f"{n}=={v.partition('+')[0]}" for n, v in kept.items())]
    folder = context.keep.parents[1] / "envs" / sha256(canonical([wanted, sys.prefix]))[:16]
    if not (folder / "lock.json").exists():
        context.say(
            f"{environment.root} gets an environment of its own in {folder.parent.name}/: a few "
            "minutes"
        )
        move_into_place(create_virtualenv(context, wanted), folder, {})
    return interpreter_path(folder)


def create_virtualenv(context: Context, requirements: list[str]) -> Path:
    """A new virtual environment over the main one with these requirements. Raises Transient where
    pip can't.
    """
    import sysconfig

    folder = context.keep.parents[1] / "envs" / f"new-{unique_name()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)],
            check=True,
            capture_output=True,
        )
        own = site_packages(folder)
        (own / "main.pth").write_text(
            f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        )
        command = [
            *PIP,
            "--python",
            interpreter_path(folder),
            "install",
            "--quiet",
            "--no-warn-conflicts",
            *requirements,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        context.say(done.stdout + done.stderr)
        if done.returncode:
            reason = next(
                (x for x in done.stderr.splitlines() if x.startswith("ERROR")),
                "is there a network?",
            )
            raise Transient(
                f"pip can't install {requirements[0]}: {reason.removeprefix('ERROR: ')[:120]}"
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def move_into_place(made: Path, folder: Path, lock: dict[str, str]) -> None:
    """Give a new environment its place, unless somebody else was faster. Python runs from a moved
    one.
    """
    (made / "lock.json").write_text(json.dumps(lock))
    if not (folder / "lock.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        made.rename(folder)
    shutil.rmtree(made, ignore_errors=True)


def interpreter_path(folder: Path) -> str:
    """The Python of a virtual environment."""
    return str(folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


def site_packages(folder: Path) -> Path:
    """Its folder of packages."""
    return next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
