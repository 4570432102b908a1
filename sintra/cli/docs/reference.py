"""The reference pages of docs/reference, made from the code and conf, so that they can't fall
behind: `doit docs`.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sintra.cli.docs import messages
from sintra.config import compose
from sintra.core import metrics as metric_table
from sintra.core import plugins
from sintra.core.errors import UserError

FOLDER = Path("docs") / "reference"
MADE = "<!-- made by `doit docs`; edit the code or docs/guide.md instead -->\n\n"
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


def pages(root: Path, commands: dict[str, str]) -> dict[str, str]:
    """File name -> Markdown. commands: name -> what it does."""
    made = {
        "options": options(root),
        "commands": command_page(commands),
        "metrics": metrics(),
        "stages": stages(),
        "devices": devices(root),
        "messages": message_page(root),
    }
    return {f"{name}.md": MADE + text for name, text in made.items()}


def write(root: Path, commands: dict[str, str]) -> list[str]:
    """Write what has changed; the names of those files."""
    changed = []
    for name, text in pages(root, commands).items():
        path = root / FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(name)
    return changed


def build(root: Path) -> None:
    """The site in site/, any warning being an error. Raises UserError where MkDocs isn't installed
    or refuses.
    """
    if importlib.util.find_spec("mkdocs") is None:
        raise UserError("the site needs MkDocs: pip install -c constraints.txt -e '.[docs]'")
    quiet = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
    }  # a notice about the theme's end of life in 2027
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=root, env=quiet, check=False
    )
    if done.returncode:
        raise UserError("MkDocs refuses the pages: its lines above say which")
    print("the site is in site/: open site/index.html")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return (
        "\n".join(
            "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |"
            for line in lines
        )
        + "\n"
    )


def meanings(root: Path) -> dict[str, str]:
    """Option -> what docs/guide.md says of it. Raises UserError for an option that the guide
    doesn't explain.
    """
    found: dict[str, str] = {}
    for line in (root / "docs" / "guide.md").read_text().splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.startswith("| `") and len(cells) == 2:
            found |= dict.fromkeys(re.findall(r"`([\w.]+)`", cells[0]), cells[1])
    return found


def options(root: Path) -> str:
    """Every key that can be set on the command line, with its default in the main job."""
    composed, said = compose.compose(root, []), meanings(root)

    def rows() -> Iterator[tuple[str, ...]]:
        for key in sorted(compose.keys()):
            if key.startswith("hardware.") or key.endswith(".name"):
                continue
            if key not in said:
                raise UserError(
                    f"docs/guide.md doesn't explain the option {key}: add a row `{key}` to its "
                    "table"
                )
            yield f"`{key}`", f"`{shown(value_at(composed, key))}`", said[key]

    groups = "\n".join(
        f"- `{g}=`: {', '.join(f'`{n}`' for n in sorted(compose.names(root, g)))}"
        for g in compose.GROUPS
    )
    return (
        "# Options\n\nGiven as `key=value` after the command. Defaults are those of `doit "
        "optimize` without options; a group (`goal=small`) sets several keys at once, and a key "
        f"beside it wins.\n\n{groups}\n\n{table(('option', 'default', 'meaning'), rows())}"
    )


def value_at(composed: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    node: Any = composed
    for part in key.split("."):
        node = node[part]
    return node


def shown(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return {None: "null", "": "''"}.get(value, str(value)) if not isinstance(value, dict) else "{}"


def command_page(commands: dict[str, str]) -> str:
    """What `doit` can be told here."""
    rows = ((f"`doit {name}`", text) for name, text in commands.items())
    return (
        "# Commands\n\n`doit help NAME` lists a command's own options.\n\n"
        f"{table(('command', 'what it does'), rows)}"
    )


def metrics() -> str:
    """Every metric of result.json."""
    rows = ((f"`{m.name}`", m.unit, m.better, m.meaning) for m in metric_table.METRICS)
    return (
        "# Metrics\n\nAs they stand in result.json, each with how it was obtained (measured, "
        "estimated, simulated, exact), its standard error or interval, and its protocol. A name "
        "with `second_` before it is the same on `texts.second`.\n\n"
        f"{table(('metric', 'unit', 'better', 'meaning'), rows)}"
    )


def stages() -> str:
    """What steps are made of: every built-in entry point with the first sentence of its module."""
    parts = [
        "# Stages, probes, planners, exports\n\nEach is one file, found by an entry point; a "
        "package of your own adds more in the same way.\n"
    ]
    for group in STAGE_GROUPS:
        rows = (
            (f"`{e.name}`", first_sentence(e.load()))
            for e in plugins.own_entry_points()
            if e.group == f"sintra.{group}"
        )
        parts.append(
            f"\n## {group.capitalize()}\n\n{table(('name', 'what it does'), iter(sorted(rows)))}"
        )
    return "".join(parts)


def first_sentence(thing: Any) -> str:
    """Of the module that holds a plugin."""
    module = inspect.getmodule(getattr(thing, "run", thing))
    text = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
    return text


def devices(root: Path) -> str:
    """The profiles of conf/hardware: what they say, and where it is from."""
    import yaml

    def rows() -> Iterator[tuple[str, ...]]:
        for path in sorted((root / "conf" / "hardware").glob("*.yaml")):
            p = yaml.safe_load(path.read_text())
            yield (
                f"`{path.stem}`",
                str(p.get("title", "")),
                f"{p.get('usable_gb', '')} of {p.get('ram_gb', '')}",
                str(p.get("bandwidth_gbs", "")),
                str(p.get("backend", "cpu")),
            )

    head = ("profile", "device", "GiB usable", "GB/s", "backend")
    return (
        "# Devices\n\nEach file in conf/hardware names its sources in its comments. How numbers "
        f"follow from these is in [The device](../device.md).\n\n{table(head, rows())}"
    )


def message_page(root: Path) -> str:
    """Every error, by how it ends."""
    found = messages.messages(Path(__file__).parents[2])
    parts = [
        "# Messages\n\nEvery line with which Sintra ends or gives up a step. `{...}` is filled "
        "in. All are read out of the"
        " code.\n"
    ]
    for kind, (title, meaning) in MEANS.items():
        rows = ((code(m.text), f"`{m.module}`") for m in found if m.kind == kind)
        parts.append(f"\n## {title}\n\n{meaning}\n\n{table(('message', 'raised in'), rows)}")
    return "".join(parts)


def code(text: str) -> str:
    """As inline code, whatever it holds."""
    fence = "``" if "`" in text else "`"
    space = " " if fence == "``" else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"
