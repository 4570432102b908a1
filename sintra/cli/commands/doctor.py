"""`doit doctor`: what is installed and what this machine has, each ok or with what mends it.

Nothing heavy is imported, and llama.cpp is loaded in a process of its own, so that it also works
where half of everything is missing. `sintra doctor` does without doit and without a project.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from sintra.cli.doctor import online as network
from sintra.cli.doctor import packages, resources, runtimes
from sintra.cli.doctor.check import Check
from sintra.core.errors import UserError
from sintra.core.plugins import own_entry_points
from sintra.hardware.detect.machine import Machine, this_machine

MARKS = {"ok": "ok", "note": "note", "off": "-", "bad": "bad"}
MANY = 5  # faults that are counted, not listed
EVERYTHING = "pip install -c constraints.txt -e ."
NAME, MARK, WIDTH = 18, 5, 80  # characters
CONVERTER = "llama.cpp's converter"


def examine(root: Path, overrides: list[str], online: bool, format: str) -> bool:
    """Print every check. Returns whether nothing is bad. Raises UserError."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    checks = all_checks(root, overrides, online)
    good = not any(check.state == "bad" for check in checks)
    if format == "json":
        rows = [packages.as_json(check) for check in checks]
        print(json.dumps({"ok": good, "checks": rows}, indent=1))
        return good
    print("\n".join(line for check in checks for line in lines_of(check)))
    print(textwrap.fill(summary(checks), WIDTH))
    return good


def all_checks(root: Path, overrides: list[str], online: bool) -> list[Check]:
    """Return what there is to say, in the order in which it is to be mended. Raises UserError."""
    needs, machine = packages.read_needs(), machine_here()
    cache = cache_folder(root, overrides)
    torch = runtimes.torch_check(machine)
    return [
        packages.python_check(),
        packages.sintra_check(needs),
        *packages.package_checks(needs),
        *runtimes.llama_checks(needs, machine),
        *([torch] if torch else []),
        *resources.machine_checks(machine),
        resources.gpu_check(machine, needs),
        *resources.cache_checks(cache),
        *converter_checks(cache),
        *runtimes.build_tool_checks(),
        *packages.extra_checks(needs),
        *(network.online_checks() if online else []),
    ]


def machine_here() -> Machine:
    """Return this machine; llama.cpp's own devices are asked for in another process.

    Where psutil is missing and the system isn't Linux, it isn't known. Raises UserError then.
    """
    try:
        return this_machine(load_llama=False)
    except ImportError:
        raise UserError("psutil isn't installed: pip install psutil") from None


def cache_folder(root: Path, overrides: list[str]) -> Path:
    """Return where the cache lies: cache/, or what store.path=... names. Raises UserError."""
    unknown = [o for o in overrides if not o.startswith("store.path=")]
    if unknown:
        raise UserError(f"`doit doctor` takes store.path=FOLDER, not {unknown[0]!r}")
    from sintra.config.quoting import user_path

    named = overrides[-1].partition("=")[2] if overrides else "cache"
    return root / user_path(named)


def converter_checks(cache: Path) -> list[Check]:
    """Return whether the cache has the converter; the first study downloads it otherwise."""
    from sintra.core.stage import tool_version

    if tool_version("llama-cpp-python") == "none" or tool_version("sintra") == "none":
        return []
    from sintra.build.step import Step
    from sintra.stages.tools import toolchain_params
    from sintra.store.store import Store

    own_entry_points()
    try:
        params = toolchain_params()
    except UserError as error:
        mend = packages.read_needs().command("llama-cpp-python")
        return [Check("converter", "bad", str(error), mend)]
    step = Step("toolchain", "llama.cpp", params)
    if cache.is_dir() and step.outcome(Store(cache)):
        return [Check("converter", "ok", f"{CONVERTER} is in the cache")]
    found = f"{CONVERTER} isn't in the cache: the first study downloads it with pip (77 MB)"
    return [Check("converter", "note", found)]


def lines_of(check: Check) -> list[str]:
    """Return a check in 80 columns; what mends it stands below, in a line to be copied."""
    indent = " " * (NAME + MARK)
    text = f"{check.name:<{NAME}}{MARKS[check.state]:<{MARK}}{check.found}"
    lines = textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False)
    return [*lines, f"{indent}{check.mend}"] if check.mend else lines


def summary(checks: list[Check]) -> str:
    """Return the last line."""
    bad = [check.name for check in checks if check.state == "bad"]
    if len(bad) > MANY:
        return f"to be mended: {len(bad)} of {len(checks)}; at once, in a clone: {EVERYTHING}"
    if bad:
        return f"to be mended: {', '.join(bad)}"
    notes = [check.name for check in checks if check.state == "note"]
    return "all that is needed is there" + (f"; notes: {', '.join(notes)}" if notes else "")
