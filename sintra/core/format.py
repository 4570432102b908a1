"""File formats of a variant, by name: what a device needs for them, how they are made and measured.

A format is an entry point of `sintra.formats` that names a `Format`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sintra.core import plugins
from sintra.core.recipe import Recipe

PLANNED = "gguf"  # the format whose variants planners choose; of others there is one in a study

# Pruned weights: asked for, they are refused with the reason, since a file of the same bytes and
# speed is no gain.
SPARSE = ("sparse", "2:4", "wanda", "sparsegpt")


@dataclass(frozen=True)
class Format:
    """How variants of a file format are made and measured."""

    name: str
    runtime: str  # what a device must have to run it (hardware.runtimes)
    make: Callable[[Any, Recipe], Any]  # (Graph, recipe) -> the Step that makes the file
    measure: Callable[[Any, Recipe, str], Any]  # (Graph, recipe, level) -> its Variant
    environment: str = ""  # extra with the libraries that make and read it; "": none
    kind: Callable[[Any], str] = lambda study: ""  # study -> Recipe.type of its one variant


def format_of(name: str) -> Format:
    """Return a format. Raises UserError with the nearest name for an unknown one."""
    value: Format = plugins.load("formats", name)
    return value


def runnable_formats(formats: tuple[str, ...], runtimes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that a device with these runtimes can run."""
    return tuple(name for name in formats if format_of(name).runtime in runtimes)
