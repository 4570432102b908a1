"""Backends are found by name through entry points; the built-ins come in by the same door."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any

from sintra.core.errors import UserError, nearest


@functools.cache
def own() -> tuple[EntryPoint, ...]:
    """Sintra's own entry points: one small file, where scanning every installed package takes tens
    of ms.
    """
    try:
        return tuple(distribution("sintra").entry_points)
    except PackageNotFoundError:
        raise UserError(
            "sintra isn't installed here: run `pip install -e . -c constraints.txt`"
        ) from None


def all_of(group: str) -> tuple[EntryPoint, ...]:
    """Every plugin of a group (`sintra.stages`, `sintra.planners`, ...), none of them imported; our
    own first, so that nobody can take their names.
    """
    known = entry_points(group=f"sintra.{group}")
    return tuple(
        sorted(
            known,
            key=lambda e: (not (e.dist and e.dist.name == "sintra"), str(e.dist and e.dist.name)),
        )
    )


@functools.cache
def found(group: str) -> dict[str, EntryPoint]:
    """The same by name."""
    return {e.name: e for e in reversed(all_of(group))}


@functools.cache
def load(group: str, name: str) -> Any:
    """The plugin's object. Raises UserError with the nearest name for an unknown one."""
    for entry in own():
        if entry.group == f"sintra.{group}" and entry.name == name:
            return entry.load()
    if name not in found(group):
        raise UserError(f"no {group.rstrip('s')} is called {name!r}: {nearest(name, found(group))}")
    return found(group)[name].load()


@functools.cache
def step(name: str) -> Any:
    """A stage, or a probe, which is a stage whose artifact is measurements."""
    probes = {e.name for e in own() if e.group == "sintra.probes"}
    if name in probes or (name not in found_stages() and name in found("probes")):
        return load("probes", name)
    return load("stages", name)


def names(group: str) -> frozenset[str]:
    """Return the names of Sintra's own plugins of a group."""
    return frozenset(e.name for e in own() if e.group == f"sintra.{group}")


def has(group: str, name: str) -> bool:
    """Return whether a group has a plugin of this name; other packages are searched last."""
    return name in names(group) or name in found(group)


def has_step(name: str) -> bool:
    """Return whether there is a stage or probe of this name; others' packages are asked last."""
    return name in built_in() or has("stages", name) or has("probes", name)


def built_in() -> frozenset[str]:
    """Names of our own stages and probes."""
    return frozenset(e.name for e in own() if e.group in ("sintra.stages", "sintra.probes"))


@functools.cache
def found_stages() -> frozenset[str]:
    """Names of the built-in stages."""
    return frozenset(e.name for e in own() if e.group == "sintra.stages")
