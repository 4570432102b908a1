"""Measurements as a file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sintra.core.stage import Context
from sintra.core.types import Measurement

MEASUREMENTS_FILE = "measurements.json"


def write_measurements(context: Context, found: list[Measurement]) -> None:
    """The artifact's measurements.json."""
    context.write_json(MEASUREMENTS_FILE, [asdict(m) for m in found])


def parse_measurements(data: list[dict[str, Any]]) -> tuple[Measurement, ...]:
    """The measurements of such a file."""
    return tuple(Measurement(**m) for m in data)
