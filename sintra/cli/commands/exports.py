"""Exports as commands: every entry point of `sintra.exports` is `doit export_<name>`, its options
the function's keywords.

An export is `export(folder, store, **options)`; the first line of its module is what `doit list`
says.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sintra.core import plugins
from sintra.core.errors import UserError, nearest
from sintra.store.store import Store

PREFIX = "export_"
STUDY = {"name": "study", "long": "study", "default": "latest", "help": "a folder in outputs/"}
LISTING = {"list", "help", "--help", "-h", "info", "next", "tabcompletion"}


@functools.cache
def names() -> tuple[str, ...]:
    """The commands. Those of other packages only where the command line lists commands or names one
    that isn't ours: asking every installed package takes tens of ms.
    """
    own = [e.name for e in plugins.own_entry_points() if e.group == "sintra.exports"]
    asked = {a for a in sys.argv[1:] if not a.startswith("-")}
    strange = {a.removeprefix(PREFIX) for a in asked if a.startswith(PREFIX)} - set(own)
    if strange or asked & LISTING or not asked:
        own += [n for n in plugins.by_name("exports") if n not in own]
    return tuple(PREFIX + name for name in own)


def doc(command: str) -> str:
    """What an export says of itself. Loaded only where it is shown."""
    if not set(sys.argv) & LISTING and len(sys.argv) > 1:
        return command
    try:
        module = inspect.getmodule(plugins.load("exports", command.removeprefix(PREFIX)))
    except Exception as error:  # another package's fault must not take the list away
        return f"can't be loaded: {type(error).__name__}: {error}"
    return (inspect.getdoc(module) or command).splitlines()[0]


def commands(
    root: Path, raw: list[str], store: Store
) -> dict[str, tuple[Callable[..., Any], list[dict[str, Any]], None]]:
    """Command -> what it does, its parameters."""
    return {
        n: (functools.partial(_run, n.removeprefix(PREFIX), root, raw, store), [STUDY], None)
        for n in names()
    }


def _run(name: str, root: Path, raw: list[str], store: Store, study: str) -> None:
    export(name, root, store, study, dict(o.split("=", 1) for o in raw))


def export(name: str, root: Path, store: Store, study: str, given: dict[str, str]) -> None:
    """Run an export on a folder of outputs/. Raises UserError for an option that it doesn't have,
    or no result.
    """
    function = plugins.load("exports", name)
    study = given.pop("study", study)
    given.pop("store.path", None)
    known = list(inspect.signature(function).parameters)[2:]
    for key in given:
        if key not in known:
            hint = nearest(key, known) if known else "it has none"
            raise UserError(f"`doit {PREFIX}{name}` has no option {key!r}: {hint}")
    folder = root / "outputs" / study
    if not (folder / "result.json").exists():
        raise UserError(f"outputs/{study} holds no result: run `doit optimize hardware=...` first")
    function(folder.resolve(), store, **given)
