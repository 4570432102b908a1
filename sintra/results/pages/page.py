"""A page: one HTML file without scripts, fonts or pictures from elsewhere, readable in light and
dark and on a phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The page of a template beside this file; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    kit = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return kit.get_template(template).render(**values)
