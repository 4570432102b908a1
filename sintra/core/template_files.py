"""Fill in templates of our own: pages, and the files of exports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def render_file(
    path: Path,
    values: Mapping[str, Any],
    *,
    autoescape: bool = False,
    finalize: Callable[[Any], Any] | None = None,
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Return a template's text; it may include others of its folder.

    autoescape: whether values are quoted as HTML; finalize: what becomes of each value that is
    printed. Raises jinja2.UndefinedError for a missing value.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # few commands need it

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=autoescape,
        finalize=finalize,
    )
    environment.filters |= filters or {}
    return environment.get_template(path.name).render(**values)
