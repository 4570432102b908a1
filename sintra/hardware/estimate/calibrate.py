"""Refine a device profile by the device's own measurements.

Speed: the most probable parameters under the profile's own intervals as priors (normal in the
logarithms) and normal errors of the logarithm of tokens/s: efficiency, overhead per layer, and what
a byte of each tensor type costs, where rows say which types they read. Their intervals follow from
the curvature at the optimum (Laplace's approximation; Gelman et al., Bayesian Data Analysis, 3rd
edition, chapter 4). Memory: what a process holds beside weights, cache and buffers, a mean weighted
by precision.
"""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.config.options import HardwareConf
from sintra.core import lazy
from sintra.core.errors import UserError
from sintra.hardware.estimate.attention import CPU_ATTENTION
from sintra.hardware.estimate.estimate import assumed_type_cost, type_cost
from sintra.hardware.estimate.prompt_speed import NINETY
from sintra.hardware.estimate.small_layers import layer_overhead

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

MIB = 2**20
# One measurement's own error on the logarithm, as among published points of one device
# (sintra/hardware/estimate/fit.py), and what stays uncertain however many there are: half of it,
# since other models differ. Likewise of memory, in MiB.
NOISE, FLOOR = 0.07, 0.035
RAM_NOISE, RAM_FLOOR = 5.0, 3.0
# Standard deviation of the logarithm of a type's cost before it is measured: small models are
# computed rather than read.
TYPE_SPREAD = 0.4
# The same of a cached byte for a query head, and where it starts on devices that read it alone.
ATTENTION_SPREAD, LEAST_ATTENTION = 1.0, 0.3
# Standard deviations of the prior, beyond which a measurement is taken for a mistake.
FARTHEST = 6.0
COLUMNS = ("read_bytes", "weights", "layers", "tg_tps")


@dataclass(frozen=True)
class MeasuredSpeed:
    """Hold one measured decode speed, and the memory that was measured with it."""

    read: float  # bytes that a token reads, without `cached`
    weights: float  # weights that a token uses
    layers: int  # blocks
    tps: float  # tokens/s
    types: tuple[tuple[str, int], ...] = ()  # (tensor type, bytes of it), where they are known
    more_ram: float | None = None  # bytes of the process beyond weights, cache and buffers
    cached: float = 0.0  # bytes of the cache that a token reads, at float16
    shared: float = 1.0  # query heads that share a cached head
    deep: bool = False  # whether the cache was filled before


def read_speeds(path: Path) -> list[MeasuredSpeed]:
    """Read a CSV with columns read_bytes, weights, layers, tg_tps. Raises UserError."""
    try:
        with path.open(newline="") as handle:
            rows = [_speed_of_row(r) for r in csv.DictReader(handle)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} can't be read as CSV with columns {', '.join(COLUMNS)}: {error}"
        ) from None
    if not rows or any(min(r.read, r.tps) <= 0 for r in rows):
        raise UserError(f"{path}: expected at least one row with read_bytes and tg_tps above 0")
    return rows


def _speed_of_row(row: dict[str, str]) -> MeasuredSpeed:
    return MeasuredSpeed(
        float(row["read_bytes"]), float(row["weights"]), int(row["layers"]), float(row["tg_tps"])
    )


@dataclass(frozen=True)
class DecodeLaw:
    """Give tokens/s as a function of a vector of logarithms.

    The vector: efficiency, overhead per layer in microseconds, cost of each of `types`, and a
    cached byte's cost for a query head where caches were filled.
    """

    profile: HardwareConf  # the prior
    rows: tuple[MeasuredSpeed, ...]
    types: tuple[str, ...]  # tensor types whose cost is refined, sorted

    @property
    def deep(self) -> bool:
        """Return whether the cost of the cache is refined."""
        return any(row.deep for row in self.rows)

    @property
    def assumed_attention(self) -> float:
        """Return a cached byte's cost for a query head before it is refined."""
        backend, given = self.profile.backend, self.profile.attention
        return given or (CPU_ATTENTION if backend == "cpu" else 0.0)

    @property
    def prior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means and standard deviations of the vector."""
        p, costs = self.profile, self.profile.type_costs
        center = [p.efficiency, max(p.overhead_us_per_layer, 0.1)]
        center += [costs.get(t, assumed_type_cost(t, p.backend, p.k_quant)) for t in self.types]
        spread = [p.efficiency_spread, max(p.overhead_spread, 0.2)]
        wide = [s / NINETY for s in spread]
        wide += [NOISE if t in costs else TYPE_SPREAD for t in self.types]
        if self.deep:
            center.append(self.assumed_attention or LEAST_ATTENTION)
            wide.append(ATTENTION_SPREAD)
        return np.log(center), np.array(wide)

    def residuals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the errors of each row, then of each parameter, in standard deviations."""
        mean, wide = self.prior
        return np.concatenate(
            [[self.error(row, x) / NOISE for row in self.rows], (x - mean) / wide]
        )

    def error(self, row: MeasuredSpeed, x: NDArray[np.float64]) -> float:
        """Return the logarithm of predicted over measured tokens/s."""
        p, costs = (
            self.profile,
            dict(zip(self.types, np.exp(x[2 : 2 + len(self.types)]), strict=True)),
        )
        attention = math.exp(x[-1]) if self.deep else self.assumed_attention
        own = sum(
            size * (costs[t] - type_cost(t, p.k_quant)) for t, size in row.types if t in costs
        )
        cached = row.cached * max(1.0, attention * row.shared)
        reading = (row.read + cached + own + p.bytes_per_weight * row.weights) / (
            p.bandwidth_gbs * 1e9 * math.exp(x[0])
        )
        each = layer_overhead(math.exp(x[1]) * 1e-6, row.weights / max(1, row.layers), p.backend)
        return -math.log(max(reading, 1e-12) + row.layers * each) - math.log(row.tps)


def refine_profile(profile: HardwareConf, rows: list[MeasuredSpeed]) -> HardwareConf:
    """Return the profile with its parameters and intervals after these rows.

    Raises UserError for rows that no such device gives.
    """
    from scipy.optimize import least_squares  # not on the no-op path

    law = DecodeLaw(profile, tuple(rows), tuple(sorted({t for r in rows for t, _ in r.types})))
    mean, wide = law.prior
    optimum = least_squares(law.residuals, mean, method="lm")
    check_plausible(law, optimum.x)
    jacobian = optimum.jac[:, :-1] if law.deep else optimum.jac
    reading, overhead = NINETY * np.minimum(
        np.hypot(time_deviations(jacobian), FLOOR), np.maximum(wide[:2], FLOOR)
    )
    refined = replace(
        profile,
        efficiency=round_digits(math.exp(optimum.x[0])),
        efficiency_spread=round_digits(reading),
    )
    if profile.overhead_us_per_layer:
        refined = replace(
            refined,
            overhead_us_per_layer=round_digits(math.exp(optimum.x[1])),
            overhead_spread=round_digits(overhead),
        )
    costs = dict(zip(law.types, map(_exp, optimum.x[2 : 2 + len(law.types)]), strict=True))
    if law.deep:
        refined = replace(refined, attention=_exp(optimum.x[-1]))
    refined = replace(refined, type_costs=profile.type_costs | costs)
    return refine_memory(refined, [r.more_ram / MIB for r in rows if r.more_ram is not None])


def _exp(value: float) -> float:
    return round_digits(math.exp(value))


def time_deviations(jacobian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard deviations of the logarithms of the time to read, and of the overhead.

    Efficiency and the types' costs can move together without changing the time: of them the
    quotient counts, in quadratic mean over the types. jacobian: residuals x parameters.
    """
    spread = np.linalg.inv(jacobian.T @ jacobian)
    quotients = [spread[0, 0] + spread[i, i] - 2 * spread[0, i] for i in range(2, len(spread))]
    reading: list[float] = quotients or [float(spread[0, 0])]
    deviations: NDArray[np.float64] = np.sqrt(np.array([np.mean(reading), spread[1, 1]]))
    return deviations


def check_plausible(law: DecodeLaw, x: NDArray[np.float64]) -> None:
    """Raise UserError where the rows ask for parameters that no such device has."""
    mean, wide = law.prior
    if np.abs((x - mean) / wide).max() > FARTHEST:
        worst = max(law.rows, key=lambda row: abs(law.error(row, mean)))
        expected = worst.tps * math.exp(law.error(worst, mean))
        raise UserError(
            f"{worst.tps:g} tokens/s can't be of this device: the profile gives {expected:.3g}, "
            "far outside its intervals"
        )


def refine_memory(profile: HardwareConf, samples_mib: list[float]) -> HardwareConf:
    """Return the profile with runtime_mib and its spread after measurements of it, in MiB."""
    if not samples_mib:
        return profile
    before = profile.runtime_spread_mib / NINETY
    noise = max(RAM_NOISE, statistics.stdev(samples_mib) if len(samples_mib) > 1 else 0.0)
    precision = before**-2 + len(samples_mib) * noise**-2
    mean = (profile.runtime_mib * before**-2 + sum(samples_mib) * noise**-2) / precision
    return replace(
        profile,
        runtime_mib=round_digits(mean),
        runtime_spread_mib=round_digits(NINETY * math.hypot(precision**-0.5, RAM_FLOOR)),
    )


def round_digits(value: float) -> float:
    """Return a number with four significant digits, for a profile that people read."""
    return float(f"{value:.4g}")
