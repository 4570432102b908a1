"""Exports as commands: every entry point of `sintra.exports` is `doit export_<name>`, its options
the function's keywords.

An export is `export(folder, store, **options)`; the first line of its module is what `doit list`
says.
"""

from __future__ import annotations

import functools
import inspect
import sys
import textwrap
from pathlib import Path

from sintra.cli.command import Command, Option
from sintra.config.slugs import check_name
from sintra.core import plugins
from sintra.core.errors import UserError, nearest
from sintra.store.store import Store

PREFIX = "export_"
STUDY = Option("study", "latest", "a folder in outputs/")
LISTING = {"list", "help", "--help", "-h", "info", "_next", "tabcompletion"}
SUMMARY = 62  # columns of a command's line in a list
SUMMARIES = {  # of our own exports; those of other packages have the first line of their module
    "docker": "Package the result as a Docker image for the device",
    "hub": "Prepare the result for the Hugging Face hub, with a model card",
    "k8s": "Write Kubernetes objects that serve the result",
    "ollama": "Package the result for Ollama",
    "onnx": "Export the original model as ONNX",
    "quantize": "Write the result's types and matrix for llama-quantize",
    "space": "Write a Hugging Face Space with a chat page",
    "tflite": "Export the original model as TFLite",
}


@functools.cache
def command_names() -> tuple[str, ...]:
    """Return the names of the commands.

    Those of other packages only where the command line lists commands or names one that isn't ours:
    asking every installed package takes tens of ms.
    """
    own = [e.name for e in plugins.own_entry_points() if e.group == "sintra.exports"]
    words = {a for a in sys.argv[1:] if not a.startswith("-")}
    foreign = {a.removeprefix(PREFIX) for a in words if a.startswith(PREFIX)} - set(own)
    if foreign or words & LISTING or not words:
        own += [n for n in plugins.by_name("exports") if n not in own]
    return tuple(PREFIX + name for name in own)


def export_command(name: str) -> Command:
    """Return an export as a command."""
    line = export_doc(name)
    return Command(
        name,
        export_summary(name, line),
        line,
        "export",
        "sintra.cli.commands.exports:run_export",
        ("command", "root", "overrides", "store"),
        (STUDY,),
    )


def export_summary(command: str, line: str) -> str:
    """Return what an export does, for a list; `line`: the first line of its module."""
    own = SUMMARIES.get(command.removeprefix(PREFIX))
    return own or textwrap.shorten(line, SUMMARY, placeholder=" ...")


def export_doc(command: str) -> str:
    """Return the first line of an export's module; the command's name where no line is shown.

    An export is loaded only for a command line that lists commands.
    """
    if not set(sys.argv) & LISTING and len(sys.argv) > 1:
        return command
    try:
        module = inspect.getmodule(plugins.load("exports", command.removeprefix(PREFIX)))
    except Exception as error:  # another package's fault must not take the list away
        return f"can't be loaded: {type(error).__name__}: {error}"
    return (inspect.getdoc(module) or command).splitlines()[0]


def run_export(command: str, root: Path, overrides: list[str], store: Store, study: str) -> None:
    """Run an export on a folder of outputs/. Raises UserError for an option that it doesn't have,
    or no result.
    """
    function = plugins.load("exports", command.removeprefix(PREFIX))
    options = dict(o.split("=", 1) for o in overrides)
    study = options.pop("study", study)
    options.pop("store.path", None)
    keywords = list(inspect.signature(function).parameters)[2:]
    for key in options:
        if key not in keywords:
            hint = nearest(key, keywords) if keywords else "it has none"
            raise UserError(f"`doit {command}` has no option {key!r}: {hint}")
    check_name(f"study={study}", study)
    folder = root / "outputs" / study
    if not (folder / "result.json").exists():
        raise UserError(f"outputs/{study} holds no result: run `doit optimize hardware=...` first")
    function(folder.resolve(), store, **options)
