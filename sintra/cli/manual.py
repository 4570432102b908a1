"""What a person can type: `doit COMMAND --help`, and the list that `doit` and `doit help` print."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from sintra.cli.command import Command, Group
from sintra.cli.command_line import SPELLINGS
from sintra.cli.commands import exports
from sintra.cli.commands.registry import all_commands, is_clone
from sintra.config import compose
from sintra.core import plugins
from sintra.core.errors import UserError, nearest
from sintra.results import table
from sintra.study.result_upgrade import parse_result

COLUMN = 16  # where the text of a help line begins
WIDTH = 80
STUDY_GROUPS = ("hardware", "model", "goal")  # the option groups that are listed first
TITLES: dict[Group, str] = {  # of the groups of commands, in the order in which they are listed
    "main": "Main",
    "study": "Plan and understand",
    "page": "Look at a result",
    "result": "Manage results",
    "export": "Export a result",
    "device": "Devices",
    "cache": "Cache",
    "program": "Options and plugins",
    "development": "For contributors",
}


def find_command(name: str) -> Command | None:
    """Return the command of a name, in any spelling; None where there is none."""
    name = SPELLINGS.get(name, name)
    return next((c for c in all_commands() if c.name == name and c.group != "hidden"), None)


def print_help(root: Path, name: str) -> None:
    """Print what a command does and its options. Raises UserError for an unknown name."""
    command = find_command(name)
    if command is None:
        names = [c.name for c in all_commands() if c.group != "hidden"]
        raise UserError(f"unknown command {name!r}: {nearest(name, names)}")
    print(f"doit {command.name}")
    print_entry("", command.doc)
    for option in command.options:
        default = f" [{option.default}]" if option.default not in ("", False) else ""
        print_entry(f"--{option.long}", option.help + default)
    if command.group == "export" and (keywords := export_keywords(command.name)):
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
        latest = table.advice_line(parse_result(path.read_text()))
        print(textwrap.fill(f"Latest: {latest}", WIDTH, break_on_hyphens=False) + "\n")
    print(overview(root))


def overview(root: Path) -> str:
    """Return the commands by group, within 80 columns."""
    lines = [
        "Usage: doit COMMAND [KEY=VALUE ...]      (sintra COMMAND does the same)",
        "",
        "    doit optimize hardware=raspberry_pi_5 model=owner/name goal.max_kld=0.02",
    ]
    for group, title in TITLES.items():
        if group == "development" and not is_clone(root):
            continue
        commands = [command for command in all_commands() if command.group == group]
        lines += ["", title, *(command_line(command) for command in commands)]
    lines += [
        "",
        "doit COMMAND --help    what a command takes",
        "doit options WORD      what an option means",
        "doit list --all        every task; doit -n 4 optimize: options of doit go first",
    ]
    if is_clone(root):
        lines.append("docs/index.md          the documentation")
    return "\n".join(lines)


def command_line(command: Command) -> str:
    """Return a command and what it does, in a line."""
    return f"  {command.name:<14}  {command.summary}"
