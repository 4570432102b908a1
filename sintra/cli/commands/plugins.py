"""`doit plugins`: every backend that is installed, from which package, and why one can't be loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from typing import Any

from sintra.core import plugins
from sintra.core.errors import UserError

GROUPS = ("stages", "probes", "planners", "exports", "listeners", "devices")


@dataclass(frozen=True)
class Plugin:
    """One entry point. package: "name version"; trouble: why it can't be loaded, else ""."""

    group: str
    name: str
    package: str
    object: str
    trouble: str = ""


def every() -> list[Plugin]:
    """All of them, each loaded by itself: what one raises is its own trouble."""
    return [
        looked_at(group, entry)
        for group in GROUPS
        for entry in sorted(plugins.entry_points_in(group), key=lambda e: e.name)
    ]


def looked_at(group: str, entry: EntryPoint) -> Plugin:
    """Load one."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
    first = next(e for e in plugins.entry_points_in(group) if e.name == entry.name)
    trouble = ""
    if first != entry:
        trouble = f"the name is taken by {first.dist.name if first.dist else 'another package'}"
    else:
        try:
            trouble = unfit(group, entry.name, entry.load())
        except (Exception, SystemExit) as error:  # somebody else's module
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Plugin(group, entry.name, package, entry.value, trouble)


def unfit(group: str, name: str, found: Any) -> str:
    """Why an object can't be what its group asks for, or ""."""
    from sintra.core.events import Listener
    from sintra.core.stage import Stage

    kind: Any = {"stages": Stage, "probes": Stage, "listeners": Listener}.get(group)
    if kind is None:
        return "" if callable(found) or group == "devices" else f"{found!r} can't be called"
    if not isinstance(found, kind):
        return f"it is a {type(found).__name__}, not a {kind.__module__}.{kind.__name__}"
    return "" if found.name == name else f"it calls itself {found.name!r}"


def show(format: str) -> bool:
    """Print them; returns whether all are sound. Raises UserError."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    found = every()
    if format == "json":
        print(json.dumps([asdict(p) for p in found], indent=1))
        return not any(p.trouble for p in found)
    for plugin in found:
        line = f"{plugin.group:<10}{plugin.name:<16}{plugin.package}"
        print(line + (f"  can't be loaded: {plugin.trouble}" if plugin.trouble else ""))
    return not any(p.trouble for p in found)
