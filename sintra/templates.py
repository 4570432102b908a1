"""The texts that exports write, filled in: Jinja templates in sintra/exports/templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "exports" / "templates"


def render(name: str, /, **values: Any) -> str:
    """A template's text. A name that it needs and isn't given raises jinja2.UndefinedError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    around = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return around.get_template(name).render(**values)
