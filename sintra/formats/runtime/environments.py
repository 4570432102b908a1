"""Make virtual environments for libraries that clash with the main one.

llmcompressor caps transformers below ours, GPTQModel pins another numpy: each gets a virtual
environment in the cache, laid over the main one, so that only what clashes is installed again. The
versions of a library and of everything that it needs are its lock; keys depend on the lock, not on
the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from sintra.core.canonical import canonical, sha256
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, tool_version
from sintra.store.files import unique_name

SHARED = ("torch", "numpy", "safetensors", "accelerate", "sentencepiece")
PIP = (sys.executable, "-m", "pip")
PACKAGE_NAME = re.compile(r"(?=.{1,100}$)[a-z0-9]+(-[a-z0-9]+)*")  # as PEP 503 normalizes it
VERSION = re.compile(r"[0-9A-Za-z.!+_-]{1,64}")  # the letters of PEP 440's versions
MOST_PACKAGES = 1000  # of a lock


@dataclass(frozen=True)
class Environment:
    """A library that may need a virtual environment."""

    root: str  # the distribution that it is for
    requirements: tuple[str, ...]  # what pip is asked for, pinned


class EnvironmentParams(TypedDict):
    """The parameters of an environment step."""

    name: str  # a key of ENVIRONMENTS
    root: str  # the distribution that it is for
    shared: dict[str, str]  # versions of what it takes from the main environment
    python: str  # version of Python, as "3.11"
    here: NotRequired[dict[str, str]]  # versions in the main environment, where that one is used
    requirements: NotRequired[list[str]]  # what pip is asked for, where one is made


ENVIRONMENTS = {
    # The last release that runs with torch 2.13; it needs transformers 5.15 to 5.17.
    "compressor": Environment("llmcompressor", ("llmcompressor==0.14.0.1", "protobuf>=6")),
    # 7.7 needs torch 2.14.1; transformers loads what it writes through optimum.
    "gptq": Environment("gptqmodel", ("gptqmodel==7.6.0", "optimum==2.3.0")),
    # It pins typing-extensions below 4.13, which ours has outgrown.
    "tflite": Environment("litert-torch", ("litert-torch==0.10.0", "ai-edge-quantizer==0.10.0")),
}


def environment_params(name: str, python: str) -> EnvironmentParams:
    """Return an environment step's parameters.

    python: "auto" (the main environment where it has the library, else one of its own) or "here"
    (only the main one).
    """
    environment = ENVIRONMENTS[name]
    params: EnvironmentParams = {
        "name": name,
        "root": environment.root,
        "shared": {n: tool_version(n) for n in SHARED},
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    }
    if python == "here" or tool_version(environment.root) != "none":
        libraries = (environment.root, "transformers", "compressed-tensors", "optimum")
        params["here"] = {n: tool_version(n) for n in libraries}
    else:
        params["requirements"] = list(environment.requirements)
    return params


def installed_closure(root: str) -> dict[str, str]:
    """Return name -> version of a distribution and of everything that it needs, in this Python."""
    # not on the no-op path
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    versions: dict[str, str] = {}
    left = [root]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in versions:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # an optional part
        versions[name] = installed.version
        needs = [Requirement(r) for r in installed.requires or []]
        left += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return versions


def write_lock(context: Context) -> None:
    """Write lock.json: the versions as the Python that runs this has them."""
    context.write_json("lock.json", installed_closure(context.params["root"]))


def environment_folder(context: Context, lock: dict[str, str]) -> Path:
    """Return where an environment with this lock lies; another main environment has others."""
    return _environments_folder(context) / sha256(canonical([lock, sys.prefix]))[:16]


def _environments_folder(context: Context) -> Path:
    return context.keep.parents[1] / "envs"


def checked_lock(environment: str, lock: object) -> dict[str, str]:
    """Return a lock after checking that it holds names (PEP 503) and versions (PEP 440) only.

    Each pair becomes an argument of pip. Raises UserError.
    """
    from packaging.version import InvalidVersion, Version  # not on the no-op path

    def fault(what: str) -> UserError:
        return UserError(
            f"the lock of the environment {environment} is not a list of packages and versions "
            f"({what}): `doit clean environment:{environment}`, then run the same again"
        )

    if not isinstance(lock, dict) or len(lock) > MOST_PACKAGES:
        raise fault("it is not a mapping" if not isinstance(lock, dict) else "it is too long")
    for name, version in lock.items():
        if not isinstance(name, str) or not PACKAGE_NAME.fullmatch(name):
            raise fault(f"{str(name)[:40]!r} is not a package's name")
        try:
            if not VERSION.fullmatch(version):
                raise InvalidVersion(version)
            Version(version)
        except (InvalidVersion, TypeError):
            raise fault(f"{str(version)[:40]!r} is not a version of {name}") from None
    return dict(lock)


def locked_python(context: Context, name: str, lock: dict[str, str]) -> str:
    """Return the path of the Python whose versions are the lock's.

    That is this one, or that of the environment, which is built again where it is missing. Raises
    UserError for a lock that holds anything but names and versions, Transient where pip cannot
    install it.
    """
    root, lock = ENVIRONMENTS[name].root, checked_lock(name, lock)
    if tool_version(root) == lock.get(root):
        return sys.executable
    folder = environment_folder(context, lock)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (folder / "lock.json").exists():
            context.say(f"the environment {name} is built again")
            move_into_place(create_virtualenv(context, _pins(sorted(lock.items()))), folder, lock)
    return interpreter_path(folder)


def unlocked_python(context: Context, name: str) -> str:
    """Return the path of a Python that has a library, for uses that no lock is kept of.

    That is this one where it has the library, else one made for the requirements, once. Raises
    Transient where pip cannot install it.
    """
    environment = ENVIRONMENTS[name]
    if tool_version(environment.root) != "none":
        return sys.executable
    shared = {n: tool_version(n) for n in (*SHARED, "transformers")}
    requirements = [*environment.requirements, *_pins(shared.items())]
    folder = _environments_folder(context) / sha256(canonical([requirements, sys.prefix]))[:16]
    if not (folder / "lock.json").exists():
        context.say(
            f"{environment.root} gets an environment of its own in {folder.parent.name}/: a few "
            "minutes"
        )
        move_into_place(create_virtualenv(context, requirements), folder, {})
    return interpreter_path(folder)


def _pins(versions: Iterable[tuple[str, str]]) -> list[str]:
    """Return requirements for pip from (name, version), without local labels such as "+cpu"."""
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions]


def create_virtualenv(context: Context, requirements: list[str]) -> Path:
    """Make a virtual environment over the main one, and return its folder.

    Raises Transient where pip cannot install the requirements.
    """
    import sysconfig  # not on the no-op path

    folder = _environments_folder(context) / f"new-{unique_name()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(folder)],
            check=True,
            capture_output=True,
        )
        (site_packages(folder) / "main.pth").write_text(
            f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        )
        _install(context, folder, requirements)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _install(context: Context, folder: Path, requirements: list[str]) -> None:
    """Install requirements into a virtual environment. Raises Transient where pip fails."""
    options = ["--quiet", "--no-warn-conflicts"]
    done = subprocess.run(
        [*PIP, "--python", interpreter_path(folder), "install", *options, "--", *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    context.say(done.stdout + done.stderr)
    if done.returncode:
        errors = (x for x in done.stderr.splitlines() if x.startswith("ERROR"))
        reason = next(errors, "is there a network?").removeprefix("ERROR: ")[:120]
        raise Transient(f"pip can't install {requirements[0]}: {reason}")


def move_into_place(created: Path, folder: Path, lock: dict[str, str]) -> None:
    """Rename a new environment to its folder, unless another process did so first.

    Python runs from a moved environment.
    """
    (created / "lock.json").write_text(json.dumps(lock))
    if not (folder / "lock.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        created.rename(folder)
    shutil.rmtree(created, ignore_errors=True)


def interpreter_path(folder: Path) -> str:
    """Return the path of a virtual environment's Python."""
    return str(folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))


def site_packages(folder: Path) -> Path:
    """Return a virtual environment's folder of packages."""
    return next(folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages")
