"""`doit plugins`: every plugin that is installed, its package, and why it can't be loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from typing import Any

from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.events import Listener
from sintra.core.format import Format
from sintra.core.stage import Stage

GROUPS = ("stages", "probes", "formats", "planners", "exports", "listeners", "devices")


@dataclass(frozen=True)
class Plugin:
    """One entry point."""

    group: str  # without `sintra.`
    name: str
    package: str  # name and version of the distribution that has it
    object: str  # "module:attribute"
    trouble: str = ""  # why it can't be loaded; "": it can


def all_plugins() -> list[Plugin]:
    """Return every plugin, each loaded by itself: what one raises is its own trouble."""
    return [
        load_plugin(group, entry)
        for group in GROUPS
        for entry in sorted(plugins.entry_points_in(group), key=lambda e: e.name)
    ]


def load_plugin(group: str, entry: EntryPoint) -> Plugin:
    """Load one plugin and note why it can't be used."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
    first = next(e for e in plugins.entry_points_in(group) if e.name == entry.name)
    trouble = ""
    if first != entry:
        trouble = f"the name is taken by {first.dist.name if first.dist else 'another package'}"
    else:
        try:
            trouble = kind_trouble(group, entry.name, entry.load())
        except (Exception, SystemExit) as error:  # somebody else's module
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Plugin(group, entry.name, package, entry.value, trouble)


def kind_trouble(group: str, name: str, loaded: Any) -> str:
    """Return why an object can't be what its group asks for; "" where it can."""
    kind: Any = {"stages": Stage, "probes": Stage, "listeners": Listener, "formats": Format}.get(
        group
    )
    if kind is None:
        return "" if callable(loaded) or group == "devices" else f"{loaded!r} can't be called"
    if not isinstance(loaded, kind):
        return f"it is a {type(loaded).__name__}, not a {kind.__module__}.{kind.__name__}"
    return "" if loaded.name == name else f"it calls itself {loaded.name!r}"


def show_plugins(format: str) -> bool:
    """Print every plugin. Returns whether all can be loaded. Raises UserError."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    rows = all_plugins()
    if format == "json":
        print(json.dumps([asdict(p) for p in rows], indent=1))
        return not any(p.trouble for p in rows)
    for plugin in rows:
        line = f"{plugin.group:<10}{plugin.name:<16}{plugin.package}"
        print(line + (f"  can't be loaded: {plugin.trouble}" if plugin.trouble else ""))
    return not any(p.trouble for p in rows)
