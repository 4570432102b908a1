"""What a person can type: `doit COMMAND --help`, and the list that plain `doit` prints."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path

from sintra.cli.command import Command, Group
from sintra.cli.commands import exports
from sintra.cli.commands.registry import all_commands
from sintra.config import compose
from sintra.core import plugins
from sintra.core.errors import UserError, nearest
from sintra.results import table

COLUMN = 16  # where the text of a help line begins
WIDTH = 80
STUDY_GROUPS = ("hardware", "model", "goal")  # the option groups that are listed first
NEXT_GROUPS: tuple[Group, ...] = (
    "study",
    "program",
    "device",
    "cache",
    "result",
    "export",
    "page",
)


def print_help(root: Path, name: str) -> None:
    """Print what a command does and its options. Raises UserError for an unknown name."""
    command = next((c for c in all_commands() if c.name == name), None)
    if command is None:
        names = [c.name for c in all_commands()]
        raise UserError(f"there is no command {name!r}: {nearest(name, names)}")
    print(f"doit {name}")
    print_entry("", command.doc)
    for option in command.options:
        default = f" [{option.default}]" if option.default not in ("", False) else ""
        print_entry(f"--{option.long}", option.help + default)
    if command.group == "export" and (keywords := export_keywords(name)):
        print_entry("KEY=VALUE", ", ".join(keywords))
    if command.opens != "nothing" or command.study_help:
        print_study_options(root)


def print_study_options(root: Path) -> None:
    """Print the groups that most studies name, and where the other options are."""
    for group in STUDY_GROUPS:
        more = ", a file, auto" if group == "hardware" else ""
        print_entry(f"{group}=", ", ".join(sorted(compose.names(root, group))) + more)
    print_entry(
        "KEY=VALUE",
        "any other option, as goal.max_kld=0.01: `doit options WORD` explains them",
    )


def export_keywords(name: str) -> list[str]:
    """Return what an export takes as KEY=VALUE, with the defaults."""
    export = plugins.load("exports", name.removeprefix(exports.PREFIX))
    keywords = list(inspect.signature(export).parameters.values())[2:]
    return [
        f"{p.name}={'' if p.default in (inspect.Parameter.empty, None) else p.default}"
        for p in keywords
    ]


def print_entry(word: str, text: str) -> None:
    """Print a word and what it means, within 80 columns; without a word, the text alone."""
    line = f"  {word:<{COLUMN - 4}}  {text}" if word else f"  {text}"
    print(textwrap.fill(line, WIDTH, subsequent_indent=" " * (COLUMN if word else 2)))


def print_next(root: Path) -> None:
    """Print what came out last, and the commands by group."""
    path = root / "outputs" / "latest" / "result.json"
    if path.exists():
        print(f"latest: {table.advice_line(json.loads(path.read_text()))}")
    print(
        "doit optimize hardware=NAME model=NAME    the main job (names: conf/hardware, conf/model)"
    )
    for group in NEXT_GROUPS:
        for command in (c for c in all_commands() if c.group == group):
            print_command(command)
    print("doit help optimize, doit list --all, docs/guide.md for more")


def print_command(command: Command) -> None:
    """Print a command and what it does, in a line."""
    print(f"doit {command.name:<15} {command.doc}")
