"""`doit COMMAND --help`: what a command does, its own options, and where those of a study are."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from sintra.cli.commands import exports, registry
from sintra.config import compose
from sintra.core import plugins
from sintra.core.errors import UserError, nearest

STUDY = ("optimize", "plan", "why", "sweep", "compare", "push", "pull", "estimate", "thermal")
WIDE = 16
FIRST = ("hardware", "model", "goal")


def show(root: Path, named: list[str]) -> None:
    """Print the help of the command that is named. Raises UserError for a name that is no
    command's.
    """
    name, known = named[0], [*registry.DOCS, *exports.names()]
    if name not in known:
        raise UserError(f"there is no command {name!r}: {nearest(name, known)}")
    task = next((t for t in registry.tasks(root, [], None) if t.name == name), None)
    print(f"doit {name}")
    said("", registry.DOCS.get(name) or exports.doc(name))
    for option in task.params if task else []:
        default = option.get("default")
        said(
            f"--{option['long']}",
            option["help"] + (f" [{default}]" if default not in ("", False, None) else ""),
        )
    if name not in registry.DOCS and (taken := keywords(name)):
        said("KEY=VALUE", ", ".join(taken))
    if name in STUDY:
        for group in FIRST:
            said(
                f"{group}=",
                ", ".join(sorted(compose.names(root, group)))
                + (", a file, auto" if group == "hardware" else ""),
            )
        said(
            "KEY=VALUE",
            "any other option, as goal.max_kld=0.01: docs/reference/options.md has them all",
        )


def keywords(name: str) -> list[str]:
    """What an export takes as KEY=VALUE, with the defaults."""
    given = list(
        inspect.signature(
            plugins.load("exports", name.removeprefix(exports.PREFIX))
        ).parameters.values()
    )[2:]
    return [
        f"{p.name}={'' if p.default in (inspect.Parameter.empty, None) else p.default}"
        for p in given
    ]


def said(word: str, text: str) -> None:
    """A word and what it is, within 80 columns."""
    rest = " " * (WIDE if word else 2)
    print(
        textwrap.fill(
            f"  {word:<{WIDE - 4}}  {text}" if word else f"  {text}", 80, subsequent_indent=rest
        )
    )
