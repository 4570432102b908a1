"""The reference pages of docs/reference, generated from the code and conf: `doit docs`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from sintra.cli.commands.registry import COMMANDS
from sintra.cli.docs import messages, modules
from sintra.cli.docs.json_schema import result_schema
from sintra.config.option_docs import CHANGES, OptionDoc, option_docs
from sintra.core import metrics as metric_table
from sintra.core import plugins
from sintra.core.errors import UserError

FOLDER = Path("docs") / "reference"
GENERATED = "<!-- made by `doit docs`; edit the code or conf instead -->\n\n"
OPTION_COLUMNS = ("option", "type", "unit", "range", "default", "meaning", "example", "changes")
OPTION_TITLES = {
    "": "General",
    "hardware": "Device profile",
    "device": "Measuring on a board",
    "compress": "GPTQ and AWQ",
    "mlflow": "MLflow",
}
MEANS = {
    "UserError": (
        "Mistakes",
        (
            "Exit code 2: the command line, a file or an environment can't be taken. Nothing was "
            "started."
        ),
    ),
    "Infeasible": (
        "Variants that can't be",
        "A result, which is kept: the variant stands in the table with this reason and the "
        "planner goes on without it.",
    ),
    "Transient": (
        "Faults that may pass",
        "Exit code 1: nothing is kept of the step, everything finished stays. Run the same "
        "command again when the cause is gone.",
    ),
}
STAGE_GROUPS = ("stages", "probes", "planners", "exports")


def reference_pages(root: Path) -> dict[str, str]:
    """Return every file: name -> Markdown, and the JSON Schema of result.json."""
    pages = {
        "options": option_page(root),
        "commands": command_page(),
        "metrics": metric_page(),
        "stages": stage_page(),
        "devices": device_page(root),
        "messages": message_page(root),
        "modules": modules.page(root),
    }
    files = {f"{name}.md": GENERATED + text for name, text in pages.items()}
    return files | {"result.schema.json": json.dumps(result_schema(), indent=1) + "\n"}


def write_pages(root: Path) -> list[str]:
    """Write the pages that have changed. Returns the names of those files."""
    changed = []
    for name, text in reference_pages(root).items():
        path = root / FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(name)
    return changed


def build_site(root: Path) -> None:
    """Build the site in site/, any warning being an error. Raises UserError where MkDocs isn't
    installed or refuses.
    """
    if importlib.util.find_spec("mkdocs") is None:
        raise UserError("the site needs MkDocs: pip install -c constraints.txt -e '.[docs]'")
    # without a notice about the theme's end of life in 2027
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=root, env=environment, check=False)
    if done.returncode:
        raise UserError("MkDocs refuses the pages: its lines above say which")
    print("the site is in site/: open site/index.html")


def markdown_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join(
            "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |"
            for line in lines
        )
        + "\n"
    )


def option_page(root: Path) -> str:
    """Return every option, a row each. Raises UserError for one that isn't documented."""
    docs = option_docs(root)
    changes = "\n".join(f"- `{name}`: {words}." for name, words in CHANGES.items())
    parts = [
        "# Options\n\nGive an option as `key=value` after the command. `doit options WORD` prints "
        "the rows that hold a word. A preset (`goal=small`) sets several options at once; an "
        "option beside it replaces its value. Defaults are those of `doit optimize` without "
        "options, and of a device profile that leaves a number out.\n\nThe last column says what "
        f"a new value does:\n\n{changes}\n"
    ]
    for group in dict.fromkeys(d.group for d in docs):
        rows = (option_row(d) for d in docs if d.group == group)
        title = OPTION_TITLES.get(group, group.capitalize())
        parts.append(f"\n## {title}\n\n{markdown_table(OPTION_COLUMNS, rows)}")
    return "".join(parts)


def option_row(doc: OptionDoc) -> tuple[str, ...]:
    """Return an option as a row of the table, in the order of OPTION_COLUMNS."""
    return (
        f"`{doc.name}`",
        doc.type,
        doc.unit,
        doc.allowed,
        f"`{doc.default}`",
        doc.meaning,
        f"`{doc.example}`",
        doc.changes,
    )


def command_page() -> str:
    """Return every command with what it does."""
    rows = (
        (f"`doit {command.name}`", command.doc) for command in COMMANDS if command.group != "hidden"
    )
    return (
        "# Commands\n\n`doit NAME --help` lists a command's own options.\n\n"
        f"{markdown_table(('command', 'what it does'), rows)}"
    )


def metric_page() -> str:
    """Return every metric of result.json."""
    rows = ((f"`{m.name}`", m.unit, m.better, m.meaning) for m in metric_table.METRICS)
    return (
        "# Metrics\n\nAs they stand in result.json, each with how it was obtained (measured, "
        "estimated, simulated, exact), its standard error or interval, and its protocol. A name "
        "with `second_` before it is the same on `texts.second`.\n\n"
        f"{markdown_table(('metric', 'unit', 'better', 'meaning'), rows)}"
    )


def stage_page() -> str:
    """Return every built-in stage, probe, planner and export, each with a sentence."""
    parts = [
        "# Stages, probes, planners, exports\n\nEach is one file, found by an entry point; a "
        "package of your own adds more in the same way.\n"
    ]
    for group in STAGE_GROUPS:
        rows = sorted(
            (f"`{e.name}`", module_summary(e.load()))
            for e in plugins.own_entry_points()
            if e.group == f"sintra.{group}"
        )
        parts.append(
            f"\n## {group.capitalize()}\n\n{markdown_table(('name', 'what it does'), rows)}"
        )
    return "".join(parts)


def module_summary(plugin: object) -> str:
    """Return the first paragraph of the docstring of a plugin's module, in one line."""
    module = inspect.getmodule(getattr(plugin, "run", plugin))
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())


def device_page(root: Path) -> str:
    """Return every device profile of conf/hardware with its main numbers."""
    head = ("profile", "device", "GiB usable", "GB/s", "backend")
    return (
        "# Devices\n\nEach file in conf/hardware names its sources in its comments. How numbers "
        "follow from these is in [The device](../device.md).\n\n"
        f"{markdown_table(head, device_rows(root))}"
    )


def device_rows(root: Path) -> Iterator[tuple[str, ...]]:
    """Return a row for each device profile of conf/hardware."""
    for path in sorted((root / "conf" / "hardware").glob("*.yaml")):
        profile = yaml.safe_load(path.read_text())
        yield (
            f"`{path.stem}`",
            str(profile.get("title", "")),
            f"{profile.get('usable_gb', '')} of {profile.get('ram_gb', '')}",
            str(profile.get("bandwidth_gbs", "")),
            str(profile.get("backend", "cpu")),
        )


def message_page(root: Path) -> str:
    """Return every error message, by how it ends the program."""
    every = messages.read_messages(Path(__file__).parents[2])
    parts = [
        "# Messages\n\nEvery line with which Sintra ends or gives up a step. `{...}` is filled "
        "in. All are read out of the"
        " code.\n"
    ]
    for kind, (title, meaning) in MEANS.items():
        rows = ((inline_code(m.text), f"`{m.module}`") for m in every if m.kind == kind)
        table = markdown_table(("message", "raised in"), rows)
        parts.append(f"\n## {title}\n\n{meaning}\n\n{table}")
    return "".join(parts)


def inline_code(text: str) -> str:
    """Return a text as inline code of Markdown, also where it has a backtick."""
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"
