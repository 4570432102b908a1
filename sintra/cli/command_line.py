"""The command line: which words are commands and tasks, which are values of options."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from doit.cmd_base import DodoTaskLoader
from doit.cmd_run import Run as RunCommand

from sintra.cli.commands.registry import all_commands
from sintra.config import compose

SPELLINGS = {"optimise": "optimize"}  # other spellings of commands


@dataclass(frozen=True)
class CommandLine:
    """A command line, read. What it can say follows from the table of commands."""

    overrides: list[str]  # KEY=VALUE options, raw and in order
    words: list[str]  # names of commands and tasks, and the words behind a command
    asks_help: bool  # whether --help is among the options

    @classmethod
    def of(cls, argv: list[str]) -> CommandLine:
        """Read the arguments behind `doit`."""
        words = [
            SPELLINGS.get(argument, argument)
            for argument, before in zip(argv, ["", *argv], strict=False)
            if not argument.startswith("-")
            and "=" not in argument
            and before not in options_with_value()
        ]
        return cls(compose.overrides_of(argv), words, bool({"--help", "-h"} & set(argv)))

    @property
    def group_command(self) -> str | None:
        """The command that opens several studies, where one is named."""
        several = {c.name for c in all_commands() if c.opens == "studies"}
        return next((word for word in self.words if word in several), None)

    @property
    def runs_optimize(self) -> bool:
        """Whether the main job is among the commands."""
        return "optimize" in self.words

    @property
    def opens_study(self) -> bool:
        """Whether the options describe one study: for a command that needs it, or for its tasks."""
        closed = [c for c in all_commands() if c.opens == "nothing"]
        if not self.words or self.group_command:
            return False
        if self.words[0] in {c.name for c in closed if c.words}:
            return False  # the words behind it are its own
        return not set(self.words) <= {"help", *(c.name for c in closed)}


@functools.cache
def options_with_value() -> frozenset[str]:
    """Return the options, of doit and of the commands, behind which a value stands."""
    own = [f"--{o.long}" for c in all_commands() for o in c.options if o.takes_value]
    valued = [
        option
        for option in (*RunCommand.cmd_options, *DodoTaskLoader.cmd_options)
        if option.get("type", str) is not bool
    ]
    short = [f"-{option['short']}" for option in valued if option["short"]]
    return frozenset([*own, *short, *(f"--{option['long']}" for option in valued)])
