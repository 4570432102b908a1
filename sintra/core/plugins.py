"""Backends are found by name through entry points; the built-ins come in by the same door."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

from sintra.core.errors import UserError, nearest

STEP_GROUPS = ("stages", "probes")  # a probe is a stage whose artifact is measurements


@functools.cache
def own_entry_points() -> tuple[EntryPoint, ...]:
    """Return Sintra's own entry points, without a scan of every installed package.

    That reads one small file, where a scan takes tens of milliseconds. Raises UserError where
    Sintra isn't installed.
    """
    try:
        return tuple(distribution("sintra").entry_points)
    except PackageNotFoundError:
        raise UserError(
            "sintra isn't installed here: run `pip install -e . -c constraints.txt`"
        ) from None


def own_names(*groups: str) -> frozenset[str]:
    """Return the names of Sintra's own plugins in these groups."""
    full = {_full(g) for g in groups}
    return frozenset(e.name for e in own_entry_points() if e.group in full)


def has(group: str, name: str) -> bool:
    """Return whether a group has a plugin of this name; other packages are searched last."""
    return name in own_names(group) or name in by_name(group)


def has_step(name: str) -> bool:
    """Return whether there is a stage or a probe of this name."""
    return any(has(group, name) for group in STEP_GROUPS)


def entry_points_in(group: str) -> tuple[EntryPoint, ...]:
    """Return every plugin of a group (`stages`, `planners`, ...), none of them imported.

    Sintra's own come first, so that nobody can take their names.
    """
    return tuple(sorted(entry_points(group=_full(group)), key=_own_first))


@functools.cache
def by_name(group: str) -> dict[str, EntryPoint]:
    """Return every plugin of a group by its name, none of them imported."""
    return {e.name: e for e in reversed(entry_points_in(group))}


@functools.cache
def load(group: str, name: str) -> Any:
    """Import a plugin and return its object. Raises UserError for an unknown name."""
    for entry in own_entry_points():
        if entry.group == _full(group) and entry.name == name:
            return entry.load()
    plugins = by_name(group)
    if name not in plugins:
        raise UserError(f"no {group.rstrip('s')} is called {name!r}: {nearest(name, plugins)}")
    return plugins[name].load()


@functools.cache
def load_step(name: str) -> Any:
    """Import a stage or a probe. Raises UserError for an unknown name."""
    if name in own_names("probes"):
        return load("probes", name)
    if name not in own_names("stages") and name in by_name("probes"):
        return load("probes", name)
    return load("stages", name)


def _full(group: str) -> str:
    """Return the name of a group as packages declare it."""
    return f"sintra.{group}"


def _own_first(entry: EntryPoint) -> tuple[bool, str]:
    """Return the place of an entry point among others: Sintra's own, then by distribution."""
    name = entry.dist and entry.dist.name
    return name != "sintra", str(name)
