"""The page of modules in docs/reference, from the modules' own docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

# The folders of sintra/ in the order of the data's route: none imports one further down.
LAYERS = (
    "core",
    "store",
    "config",
    "formats",
    "hardware",
    "stages",
    "probes",
    "planning",
    "build",
    "study",
    "results",
    "integrations",
    "cli",
)


def page(root: Path) -> str:
    """Return the page as Markdown: the first docstring line of each module, folder by folder."""
    parts = [
        "# Modules\n\nFolder by folder, as data flows through them; "
        "a folder imports only from those before it.\n"
    ]
    for path in sorted((root / "sintra").rglob("__init__.py"), key=lambda p: place_of(root, p)):
        folder = path.parent
        rows = [
            (f"`{module.name}`", purpose(module))
            for module in sorted(folder.glob("*.py"))
            if module != path
        ]
        title = folder.relative_to(root).as_posix()
        parts.append(f"\n## {title}/\n\n{purpose(path)}\n\n")
        parts += [f"- {name}: {text}\n" for name, text in rows]
    return "".join(parts)


def place_of(root: Path, path: Path) -> tuple[int, str]:
    """Return where a folder stands on the page: by its layer, then by name."""
    parts = path.relative_to(root).parts
    return (LAYERS.index(parts[1]) if parts[1] in LAYERS else -1), path.as_posix()


def purpose(path: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")
