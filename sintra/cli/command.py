"""What a command of `doit` is: its name, its options, and the function that does it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sintra.store.store import Store
from sintra.study.workspace import Workspace, cache_root

Group = Literal[
    "main",
    "study",
    "page",
    "result",
    "export",
    "device",
    "cache",
    "program",
    "development",  # in a clone of Sintra only
    "hidden",
]
Input = Literal["command", "root", "overrides", "store", "workspace"]
Opens = Literal["nothing", "study", "studies"]


@dataclass(frozen=True)
class Option:
    """An option of a command: --NAME."""

    long: str  # as on the command line, without the dashes
    default: str | bool | int | float
    help: str
    parameter: str = ""  # of the function; "": the name itself

    @property
    def takes_value(self) -> bool:
        """Whether a value follows; a bool is a flag."""
        return not isinstance(self.default, bool)

    def as_param(self) -> dict[str, object]:
        """Return the option as doit's tasks declare it."""
        return {
            "name": self.parameter or self.long,
            "long": self.long,
            "type": type(self.default),
            "default": self.default,
            "help": self.help,
        }


@dataclass(frozen=True)
class Command:
    """A command. Its function is loaded when it is run, so that other runs don't import it."""

    name: str
    summary: str  # what it does, as a line of a list: at most 62 columns
    doc: str  # the same with its main options, in a line or two
    group: Group
    function: str = ""  # "module:function"; "": the tasks of a study are all that it does
    inputs: tuple[Input, ...] = ()  # what the function is given by position, before its options
    options: tuple[Option, ...] = ()
    words: str = ""  # the function's parameter for the words behind the command; "": it takes none
    opens: Opens = "nothing"  # what the KEY=VALUE options of the command line describe
    study_help: bool = False  # whether --help lists the options of a study although none is opened

    def load(self) -> Any:
        """Import and return the function. Raises ImportError or AttributeError."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class CommandInputs:
    """What a command line gives to the function of its command."""

    root: Path  # the project's folder
    overrides: list[str]  # the KEY=VALUE options, raw and in order
    workspace: Workspace | None  # the study that they describe, where the command opens one

    @property
    def store(self) -> Store:
        """The cache: the study's, or that which store.path names."""
        if self.workspace:
            return self.workspace.store
        return Store(cache_root(self.root, self.overrides))

    def call(self, command: Command, options: dict[str, Any]) -> bool | None:
        """Run a command. Returns False for exit code 1. Raises what the command raises."""
        result: bool | None = command.load()(*self.values(command), **options)
        return result

    def values(self, command: Command) -> list[object]:
        """Return the positional arguments of a command's function."""
        values: dict[Input, object] = {
            "command": command.name,
            "root": self.root,
            "overrides": self.overrides,
            "workspace": self.workspace,
        }
        return [self.store if name == "store" else values[name] for name in command.inputs]
