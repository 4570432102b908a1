"""A device's own measurements refine its profile.

Speed: the most probable parameters under the profile's own intervals as priors (normal in the
logarithms) and normal errors of the logarithm of tokens/s: efficiency, overhead a layer, and what a
byte of each tensor type costs, where rows say which types they read. Their intervals follow from
the curvature at the optimum (Laplace's approximation; Gelman et al., Bayesian Data Analysis, 3rd
edition, chapter 4). Memory: what a process holds beside weights, cache and buffers, a mean weighted
by precision.
"""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import UserError
from sintra.hardware.estimate.estimate import slowness

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

NINETY = 1.645
MIB = 2**20
# One measurement's own error on the logarithm, as among published points of one device
# (sintra/hardware/estimate/fit.py), and what stays uncertain however many there are: half of it, since other
# models differ. Likewise of memory, in MiB.
NOISE, FLOOR = 0.07, 0.035
RAM_NOISE, RAM_FLOOR = 5.0, 3.0
# of the logarithm of a type's cost before it is measured: small models are computed rather than
# read
TYPE_SPREAD = 0.4
FARTHEST = (
    6.0  # standard deviations of the prior, beyond which a measurement is taken for a mistake
)
COLUMNS = ("read_bytes", "weights", "layers", "tg_tps")


@dataclass(frozen=True)
class Row:
    """One measured decode speed: bytes that a token reads, how many weights, layers, tokens/s;
    types: bytes by tensor type, where they are known; more_ram: bytes of the process beyond
    weights, cache and buffers.
    """

    read: float
    weights: float
    layers: int
    tps: float
    types: tuple[tuple[str, int], ...] = ()
    more_ram: float | None = None


def read(path: Path) -> list[Row]:
    """The rows of a CSV with columns read_bytes, weights, layers, tg_tps. Raises UserError."""
    try:
        with path.open(newline="") as handle:
            rows = [_row(r) for r in csv.DictReader(handle)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} can't be read as CSV with columns {', '.join(COLUMNS)}: {error}"
        ) from None
    if not rows or any(min(r.read, r.tps) <= 0 for r in rows):
        raise UserError(f"{path}: wanted is at least one row with read_bytes and tg_tps above 0")
    return rows


def _row(r: dict[str, str]) -> Row:
    return Row(float(r["read_bytes"]), float(r["weights"]), int(r["layers"]), float(r["tg_tps"]))


@dataclass(frozen=True)
class Law:
    """Tokens/s as a function of the logarithms of (efficiency, overhead a layer, cost of each
    type): a profile and rows.
    """

    profile: dict[str, Any]
    rows: tuple[Row, ...]
    types: tuple[str, ...]

    @property
    def prior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and standard deviations."""
        p, costs = self.profile, self.profile.get("type_costs", {})
        center = [p["efficiency"], max(p["overhead_us_per_layer"], 0.1)]
        center += [costs.get(t, slowness(t, p["k_quant"])) for t in self.types]
        spread = [p["efficiency_spread"], max(p["overhead_spread"], 0.2)]
        wide = [s / NINETY for s in spread] + [
            NOISE if t in costs else TYPE_SPREAD for t in self.types
        ]
        return np.log(center), np.array(wide)

    def residuals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """In standard deviations: of each row, and of each parameter."""
        mean, wide = self.prior
        return np.concatenate(
            [[self.error(row, x) / NOISE for row in self.rows], (x - mean) / wide]
        )

    def error(self, row: Row, x: NDArray[np.float64]) -> float:
        """Logarithm of predicted over measured tokens/s."""
        p, costs = self.profile, dict(zip(self.types, np.exp(x[2:]), strict=True))
        own = sum(
            size * (costs[t] - slowness(t, p["k_quant"])) for t, size in row.types if t in costs
        )
        reading = (row.read + own + p["bytes_per_weight"] * row.weights) / (
            p["bandwidth_gbs"] * 1e9 * math.exp(x[0])
        )
        return -math.log(max(reading, 1e-12) + row.layers * math.exp(x[1]) * 1e-6) - math.log(
            row.tps
        )


def refined(profile: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """The profile with its parameters and intervals after these rows. Raises UserError for rows
    that no such device gives.
    """
    from scipy.optimize import least_squares

    law = Law(profile, tuple(rows), tuple(sorted({t for r in rows for t, _ in r.types})))
    mean, wide = law.prior
    found = least_squares(law.residuals, mean, method="lm")
    doubt(law, found.x)
    reading, overhead = NINETY * np.minimum(
        np.hypot(deviations(found.jac), FLOOR), np.maximum(wide[:2], FLOOR)
    )
    after = {"efficiency": rounded(math.exp(found.x[0])), "efficiency_spread": rounded(reading)}
    if profile["overhead_us_per_layer"]:
        after |= {
            "overhead_us_per_layer": rounded(math.exp(found.x[1])),
            "overhead_spread": rounded(overhead),
        }
    costs = {t: rounded(math.exp(v)) for t, v in zip(law.types, found.x[2:], strict=True)}
    known = {"type_costs": profile.get("type_costs", {}) | costs} if costs else {}
    return (
        profile
        | after
        | known
        | memory(profile, [r.more_ram / MIB for r in rows if r.more_ram is not None])
    )


def deviations(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations of the logarithms of the time to read, and of the overhead. Efficiency
    and the types' costs can move together without changing the time: of them the quotient counts,
    in quadratic mean over the types.
    """
    spread = np.linalg.inv(jacobian.T @ jacobian)
    quotients = [spread[0, 0] + spread[i, i] - 2 * spread[0, i] for i in range(2, len(spread))]
    reading: list[float] = quotients or [float(spread[0, 0])]
    found: NDArray[np.float64] = np.sqrt(np.array([np.mean(reading), spread[1, 1]]))
    return found


def doubt(law: Law, x: NDArray[np.float64]) -> None:
    """Raise UserError where the rows can only be explained by parameters that no such device has."""
    mean, wide = law.prior
    if np.abs((x - mean) / wide).max() > FARTHEST:
        worst = max(law.rows, key=lambda row: abs(law.error(row, mean)))
        given = worst.tps * math.exp(law.error(worst, mean))
        raise UserError(
            f"{worst.tps:g} tokens/s can't be of this device: the profile gives {given:.3g}, far "
            "outside its intervals"
        )


def memory(profile: dict[str, Any], own: list[float]) -> dict[str, float]:
    """runtime_mib and its spread after measurements of it; nothing without any."""
    if not own:
        return {}
    before = profile.get("runtime_spread_mib", 50.0) / NINETY
    noise = max(RAM_NOISE, statistics.stdev(own) if len(own) > 1 else 0.0)
    precision = before**-2 + len(own) * noise**-2
    mean = (profile.get("runtime_mib", 100.0) * before**-2 + sum(own) * noise**-2) / precision
    return {
        "runtime_mib": rounded(mean),
        "runtime_spread_mib": rounded(NINETY * math.hypot(precision**-0.5, RAM_FLOOR)),
    }


def rounded(value: float) -> float:
    """Four digits, for a profile that is to be read."""
    return float(f"{value:.4g}")
