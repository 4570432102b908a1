"""Measurements as a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sintra.core.stage import Context
from sintra.core.types import Measurement

NAME = "measurements.json"


def write(context: Context, found: list[Measurement]) -> None:
    """The artifact's measurements.json."""
    context.write_json(NAME, [asdict(m) for m in found])


def parse(data: list[dict[str, Any]]) -> tuple[Measurement, ...]:
    """The measurements of such a file."""
    return tuple(Measurement(**m) for m in data)
