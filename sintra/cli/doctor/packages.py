"""Compare what is installed with what Sintra needs, with the versions tried together, and with its
extras. Only metadata is read: no package is imported.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.cli.doctor.check import Check
from sintra.core.stage import tool_version
from sintra.formats.runtime.environments import ENVIRONMENTS

CHECKOUT = Path(__file__).resolve().parents[3]  # the repository, where Sintra runs from one
OLDEST_PYTHON = (3, 11)
NAMED = ("torch", "transformers", "llama-cpp-python", "doit", "hydra-core", "gguf", "numpy")
"""Packages that have a line of their own, also where nothing is wrong with them."""


@dataclass(frozen=True)
class Needs:
    """What Sintra needs, as pip writes requirements."""

    required: tuple[str, ...] = ()
    extras: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)  # package -> version of constraints.txt
    here: bool = False  # whether it is a repository that pip can install from

    def command(self, requirement: str) -> str:
        """Return the command that installs a requirement."""
        name = base_name(requirement)
        if name in self.pins:
            requirement = f"{name}=={self.pins[name]}"
        return self._pip(
            f"'{requirement}'" if re.search(r"[<>\[~! ]", requirement) else requirement
        )

    def extra_command(self, extra: str) -> str:
        """Return the command that installs an extra."""
        return self._pip(f"-e '.[{extra}]'" if self.here else f"'sintra[{extra}]'")

    def _pip(self, what: str) -> str:
        return f"pip install {'-c constraints.txt ' if self.pins else ''}{what}"


def base_name(requirement: str) -> str:
    """Return the package of a requirement, as PEP 503 normalizes it."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def read_needs(checkout: Path = CHECKOUT) -> Needs:
    """Return what Sintra needs: by pyproject.toml in a repository, else as it was installed."""
    project = checkout / "pyproject.toml"
    table = tomllib.loads(project.read_text())["project"] if project.is_file() else {}
    if table.get("name") == "sintra":
        extras = {name: tuple(v) for name, v in table["optional-dependencies"].items()}
        return Needs(tuple(table["dependencies"]), extras, read_pins(checkout), True)
    try:
        metadata = importlib.metadata.metadata("sintra")
    except importlib.metadata.PackageNotFoundError:
        return Needs()
    lines = metadata.get_all("Requires-Dist") or []
    by_extra: dict[str, list[str]] = {n: [] for n in metadata.get_all("Provides-Extra") or []}
    for line in lines:
        if mark := re.search(r"extra\s*==\s*[\"']([\w.-]+)[\"']", line):
            by_extra.setdefault(mark[1], []).append(line.partition(";")[0].strip())
    required = tuple(line for line in lines if "extra ==" not in line)
    return Needs(required, {name: tuple(v) for name, v in by_extra.items()})


def read_pins(folder: Path) -> dict[str, str]:
    """Return package -> version of constraints.txt; empty where there is none."""
    path = folder / "constraints.txt"
    text = path.read_text() if path.is_file() else ""
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.M)
    return {base_name(name): version for name, version in pairs}


def fault(requirement: str) -> str:
    """Return why a requirement isn't met, in a few words; "" where it is.

    Without the package `packaging`, as in a bare environment, versions aren't compared.
    """
    version = tool_version(base_name(requirement))
    if version == "none":
        return "not installed"
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        return ""
    try:
        fits = Requirement(requirement).specifier.contains(version, prereleases=True)
    except InvalidRequirement:
        return ""
    return "" if fits else f"{version}, needed is {requirement}"


def differs(name: str, pins: dict[str, str]) -> bool:
    """Return whether an installed version isn't that of constraints.txt."""
    version = tool_version(name)
    return name in pins and version.partition("+")[0] != pins[name]


def python_check() -> Check:
    """Return what runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    kind = "a virtual environment" if sys.prefix != sys.base_prefix else "not in one of its own"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "bad", f"{version}, needed is {oldest}", "python3.12 -m venv .venv")
    return Check("python", "ok", f"{version}, {kind}")


def sintra_check(needs: Needs) -> Check:
    """Return how Sintra is installed."""
    installed, where = tool_version("sintra"), " from a repository" if needs.here else ""
    if installed == "none":
        command = "pip install -c constraints.txt -e ." if needs.here else "pip install sintra"
        return Check("sintra", "bad", f"{__version__}{where}, not installed", command)
    return Check("sintra", "ok", f"{__version__}{where}")


def package_checks(needs: Needs) -> list[Check]:
    """Return the packages that Sintra can't do without; sound ones without a name in one line."""
    checks, sound = [], 0
    for requirement in needs.required:
        check = package_check(requirement, needs)
        if check.state == "ok" and check.name not in NAMED:
            sound += 1
        else:
            checks.append(check)
    return [*checks, Check("other packages", "ok", f"{sound} installed")]


def package_check(requirement: str, needs: Needs) -> Check:
    """Return one required package."""
    name = base_name(requirement)
    if trouble := fault(requirement):
        return Check(name, "bad", trouble, needs.command(requirement))
    version = tool_version(name)
    if differs(name, needs.pins):
        found = f"{version}; tried together was {needs.pins[name]}"
        return Check(name, "note", found, needs.command(requirement))
    return Check(name, "ok", version)


def extra_checks(needs: Needs) -> list[Check]:
    """Return each extra: installed, or the command that installs it."""
    return [extra_check(extra, needs) for extra in sorted(needs.extras)]


def extra_check(extra: str, needs: Needs) -> Check:
    """Return one extra."""
    wanted = extra_requirements(extra, needs)
    missing = sorted(base_name(r) for r in wanted if fault(r))
    name = f"extra {extra}"
    if not missing:
        return Check(name, "ok", "installed")
    if extra in ENVIRONMENTS:
        return Check(name, "off", "an environment of its own is made when it is first needed")
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
    return Check(name, "off", f"lacks {shown}", needs.extra_command(extra))


def extra_requirements(extra: str, needs: Needs) -> set[str]:
    """Return what an extra asks for, with what the extras that it names ask for."""
    wanted: set[str] = set()
    left, seen = [extra], set[str]()
    while left:
        name = left.pop()
        seen.add(name)
        for requirement in needs.extras.get(name, ()):
            if base_name(requirement) != "sintra":
                wanted.add(requirement)
            elif inner := re.search(r"\[(.*?)\]", requirement):
                left += [e for e in re.split(r"\s*,\s*", inner[1]) if e not in seen]
    return wanted


def as_json(check: Check) -> dict[str, Any]:
    """Return a check for JSON."""
    row = {"name": check.name, "state": check.state, "found": check.found}
    return row | ({"mend": check.mend} if check.mend else {})
