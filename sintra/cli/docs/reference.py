"""The reference pages of docs/reference, generated from the code and conf: `doit docs`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sintra.cli.commands.registry import COMMANDS
from sintra.cli.docs import messages, modules
from sintra.config import compose
from sintra.config.options import Config
from sintra.core import metrics as metric_table
from sintra.core import plugins
from sintra.core.errors import UserError

FOLDER = Path("docs") / "reference"
GENERATED = "<!-- made by `doit docs`; edit the code or docs/guide.md instead -->\n\n"
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
    """Return every page: file name -> Markdown."""
    pages = {
        "options": option_page(root),
        "commands": command_page(),
        "metrics": metric_page(),
        "stages": stage_page(),
        "devices": device_page(root),
        "messages": message_page(root),
        "modules": modules.page(root),
    }
    return {f"{name}.md": GENERATED + text for name, text in pages.items()}


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


def option_meanings(root: Path) -> dict[str, str]:
    """Return option -> its explanation in the tables of docs/guide.md."""
    meanings: dict[str, str] = {}
    for line in (root / "docs" / "guide.md").read_text().splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.startswith("| `") and len(cells) == 2:
            meanings |= dict.fromkeys(re.findall(r"`([\w.]+)`", cells[0]), cells[1])
    return meanings


def option_page(root: Path) -> str:
    """Return every option, with its default in the main job.

    Raises UserError for an option that docs/guide.md doesn't explain.
    """
    groups = "\n".join(
        f"- `{g}=`: {', '.join(f'`{n}`' for n in sorted(compose.names(root, g)))}"
        for g in compose.GROUPS
    )
    return (
        "# Options\n\nGiven as `key=value` after the command. Defaults are those of `doit "
        "optimize` without options; a group (`goal=small`) sets several keys at once, and a key "
        f"beside it wins.\n\n{groups}\n\n"
        f"{markdown_table(('option', 'default', 'meaning'), option_rows(root))}"
    )


def option_rows(root: Path) -> Iterator[tuple[str, ...]]:
    """Return option, default and meaning of every option. Raises UserError."""
    composed, meanings = compose.compose(root, []), option_meanings(root)
    for key in sorted(compose.keys()):
        if key.startswith("hardware.") or key.endswith(".name"):
            continue
        if key not in meanings:
            raise UserError(
                f"docs/guide.md doesn't explain the option {key}: add a row `{key}` to its table"
            )
        yield f"`{key}`", f"`{format_value(value_at(composed, key))}`", meanings[key]


def value_at(config: Config, key: str) -> object:
    """Return the value of a dotted key; None for an entry that a mapping doesn't have."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else getattr(node, part)
    return node


def format_value(value: object) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return "{}"
    return "null" if value is None else str(value) or "''"


def command_page() -> str:
    """Return every command with what it does."""
    rows = ((f"`doit {command.name}`", command.doc) for command in COMMANDS)
    return (
        "# Commands\n\n`doit help NAME` lists a command's own options.\n\n"
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
