"""A device's own measurements refine its profile: its efficiency by a precision-weighted mean of what the profile says and what
was measured, on the logarithm, so that the interval shrinks with every row (a normal prior and normal errors)."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.errors import UserError

NINETY = 1.645
# One measurement's own error on the logarithm, as among published points of one device (sintra/hardware/fit.py), and what stays
# uncertain however many there are: half of it, since other models and types differ.
NOISE, FLOOR = 0.07, 0.035
COLUMNS = ("read_bytes", "weights", "layers", "tg_tps")


@dataclass(frozen=True)
class Row:
    """One measured decode speed: bytes that a token reads, how many weights, layers, tokens/s."""

    read: float
    weights: float
    layers: int
    tps: float


def read(path: Path) -> list[Row]:
    """The rows of a CSV with columns read_bytes, weights, layers, tg_tps. Raises UserError."""
    try:
        with path.open(newline="") as handle:
            rows = [_row(r) for r in csv.DictReader(handle)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} can't be read as CSV with columns {', '.join(COLUMNS)}: {error}") from None
    if not rows or any(min(r.read, r.tps) <= 0 for r in rows):
        raise UserError(f"{path}: wanted is at least one row with read_bytes and tg_tps above 0")
    return rows


def _row(r: dict[str, str]) -> Row:
    return Row(float(r["read_bytes"]), float(r["weights"]), int(r["layers"]), float(r["tg_tps"]))


def implied(profile: dict[str, Any], row: Row) -> float:
    """The efficiency that would make the formula give what was measured. Raises UserError where none does."""
    left = 1 / row.tps - row.layers * profile["overhead_us_per_layer"] * 1e-6
    if left <= 0:
        raise UserError(f"{row.tps:g} tokens/s is faster than the profile's overhead of {row.layers} layers alone allows")
    return float((row.read + profile["bytes_per_weight"] * row.weights) / (profile["bandwidth_gbs"] * 1e9 * left))


def refined(profile: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """The profile with its efficiency and interval after these rows."""
    before = profile["efficiency_spread"] / NINETY
    own = [math.log(implied(profile, row)) for row in rows]
    precision = before**-2 + len(own) * NOISE**-2
    mean = (math.log(profile["efficiency"]) * before**-2 + sum(own) * NOISE**-2) / precision
    spread = min(before, math.hypot(precision**-0.5, FLOOR))
    return profile | {"efficiency": round(math.exp(mean), 4), "efficiency_spread": round(NINETY * spread, 4)}
