"""Write and read measurements.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sintra.core.stage import PROBE_FILE, Context
from sintra.core.types import Measurement

MEASUREMENTS_FILE = PROBE_FILE


def write_measurements(context: Context, measurements: Iterable[Measurement]) -> None:
    """Write the artifact's measurements.json."""
    context.write_json(MEASUREMENTS_FILE, [asdict(m) for m in measurements])


def parse_measurements(data: Iterable[Mapping[str, Any]]) -> tuple[Measurement, ...]:
    """Return the measurements in the JSON of a measurements.json."""
    return tuple(Measurement(**m) for m in data)
