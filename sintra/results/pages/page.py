"""Render pages: one HTML file without scripts, fonts or pictures from elsewhere, readable in light
and dark and on a phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.core.template_files import render_file

TEMPLATE_FOLDER = Path(__file__).parent


def render_template(template: str, **values: Any) -> str:
    """Return the page of a template in TEMPLATE_FOLDER; every value is escaped."""
    return render_file(TEMPLATE_FOLDER / template, values, autoescape=True)
