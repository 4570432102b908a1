"""Render pages: one HTML file without scripts, fonts or pictures from elsewhere, readable in light
and dark and on a phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE_FOLDER = Path(__file__).parent


def render_template(template: str, **values: Any) -> str:
    """Return the page of a template in TEMPLATE_FOLDER; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only pages need it

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
