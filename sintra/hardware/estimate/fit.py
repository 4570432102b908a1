"""Decode speed fitted on published points: classes of backends, devices within them, variants
within devices.

log(tokens/s) = -log(t) + error,   t = (k B + d P) / (e W) + n o

B bytes read a token (k of a K-quant's counts for more), P weights, W the memory's theoretical
bandwidth, n layers. e, the efficiency, is exp(class + device + variant); d, bytes that decoding a
weight costs beside reading it, is the class's; o, the overhead a layer, is of the class and the
device and falls with the bandwidth to a power on GPUs, since a larger chip is faster at what isn't
reading, too. Every term has a normal prior; the posterior is Gauss-Newton's (Laplace's
approximation). A device with many points keeps its own numbers, one with few is drawn to its class
(partial pooling: Gelman and Hill, Data Analysis Using Regression and Multilevel Models, 2006,
chapter 12).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.hardware.estimate.published import Point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

Name = tuple[str, ...]
# Standard deviations of logarithms, picked by marginal likelihood among round numbers
# (docs/decisions.md).
NOISE, VARIANT, CPU_DEVICE, GPU_DEVICE, OVERHEAD_CLASS, OVERHEAD_DEVICE = (
    0.05,
    0.05,
    0.30,
    0.15,
    0.4,
    0.4,
)
# Few devices stand for the spread among devices, so intervals are Student's: 90 % of t with 8
# degrees of freedom.
NINETY = 1.86
PIVOT = 200e9
STEPS = 40
GPU_OVERHEAD, POWER = ("gpu_overhead",), ("power",)


@dataclass(frozen=True)
class Parameters:
    """A device as the fit sees it. Spreads are half-widths of 90 % intervals of the logarithm:
    `spread` of the speed where reading is all, `overhead_spread` of the overhead.
    """

    efficiency: float
    spread: float
    overhead_s: float
    overhead_spread: float
    bytes_per_weight: float
    k_quant: float


def prior(name: Name) -> tuple[float, float]:
    """Mean and standard deviation of a parameter before any point is seen."""
    match name:
        case ("efficiency", "cpu"):
            return math.log(0.65), 0.25
        case ("efficiency", _):
            return math.log(0.80), 0.10
        case ("overhead", "cpu"):
            return math.log(5e-6), 0.7
        case ("overhead", _):
            return 0.0, OVERHEAD_CLASS
        case ("gpu_overhead",):
            return math.log(60e-6), 0.7
        case ("power",):
            return 0.9, 0.25
        case ("weight", _):
            return math.log(0.05), 0.5
        case ("k_quant", "cpu"):
            return 0.05, 0.05
        case (
            "k_quant",
            _,
        ):  # llama.cpp, tools/quantize/README.md: Q4_K_M to Q6_K beside F16 and Q8_0 on one GPU
            return 0.10, 0.05
        case ("device", _, backend):
            return 0.0, CPU_DEVICE if backend == "cpu" else GPU_DEVICE
        case ("device_overhead", *_):
            return 0.0, OVERHEAD_DEVICE
    return 0.0, VARIANT


def k_quant(backend: str) -> Name:
    """The parameter of what a K-quant's byte costs above others: one for CPUs, one for GPUs."""
    return ("k_quant", "cpu" if backend == "cpu" else "gpu")


def names(point: Point) -> list[Name]:
    """The parameters that bear on a point."""
    place, backend = (point.profile, point.backend), point.backend
    found: list[Name] = [
        ("efficiency", backend),
        ("device", *place),
        ("variant", point.profile, point.device),
        ("overhead", backend),
        ("weight", backend),
        k_quant(backend),
    ]
    return found if backend == "cpu" else [*found, ("device_overhead", *place), GPU_OVERHEAD, POWER]


def slopes(point: Point, value: dict[Name, float]) -> tuple[float, dict[Name, float]]:
    """log(tokens/s) at these parameters, and its derivative by each."""

    def get(name: Name) -> float:
        return value[name] if name in value else prior(name)[0]

    cpu, backend, place = point.backend == "cpu", point.backend, (point.profile, point.backend)
    device, variant = ("device", *place), ("variant", point.profile, point.device)
    speed = math.exp(get(("efficiency", backend)) + get(device) + get(variant)) * point.bandwidth
    k = 1.0 if "_K" in point.kind else 0.0
    weights = math.exp(get(("weight", backend))) * point.weights / speed
    memory = point.read * (1 + k * get(k_quant(backend))) / speed + weights
    log_overhead, scale = get(("overhead", backend)), 0.0
    if not cpu:
        scale = math.log(PIVOT / point.bandwidth)
        log_overhead += get(("device_overhead", *place)) + get(GPU_OVERHEAD) + get(POWER) * scale
    overhead = point.layers * math.exp(log_overhead)
    total = memory + overhead
    share, rest = memory / total, -overhead / total
    found: dict[Name, float] = dict.fromkeys((("efficiency", backend), device, variant), share)
    found |= {
        ("overhead", backend): rest,
        ("weight", backend): -weights / total,
        k_quant(backend): -k * point.read / speed / total,
    }
    if not cpu:
        found |= {("device_overhead", *place): rest, GPU_OVERHEAD: rest, POWER: rest * scale}
    return -math.log(total), found


@dataclass(frozen=True)
class Fit:
    """The posterior: means and covariance of the parameters that had points."""

    value: dict[Name, float]
    covariance: NDArray[np.float64]

    def variance(self, slope: dict[Name, float]) -> float:
        """Of a linear function of the parameters, those without points at their prior."""
        known = np.array([slope.get(n, 0.0) for n in self.value])
        free = sum((s * prior(n)[1]) ** 2 for n, s in slope.items() if n not in self.value)
        return float(known @ self.covariance @ known) + free

    def predict(self, point: Point) -> tuple[float, float, float]:
        """Decode speed of a point in tokens/s with its 90 % interval; the point's own speed is not
        looked at.
        """
        mean, slope = slopes(point, self.value)
        half = NINETY * math.sqrt(self.variance(slope) + NOISE**2)
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)

    def device(self, profile: str, backend: str, bandwidth: float) -> Parameters:
        """A device's parameters, whichever of its variants; of the class where no point is of the
        device.
        """
        place = (profile, backend)

        def total(wanted: list[Name]) -> float:
            return sum(self.value.get(n, prior(n)[0]) for n in wanted)

        efficiency: list[Name] = [("efficiency", backend), ("device", *place)]
        overhead: list[Name] = [("overhead", backend)]
        scale = 0.0
        if backend != "cpu":
            overhead += [GPU_OVERHEAD, ("device_overhead", *place)]
            scale = math.log(PIVOT / bandwidth)
        slope = dict.fromkeys(overhead, 1.0) | ({POWER: scale} if scale else {})
        log_overhead = total(overhead) + (scale * total([POWER]) if scale else 0.0)
        spread = math.sqrt(self.variance(dict.fromkeys(efficiency, 1.0)) + VARIANT**2 + NOISE**2)
        return Parameters(
            math.exp(total(efficiency)),
            NINETY * spread,
            math.exp(log_overhead),
            NINETY * math.sqrt(self.variance(slope)),
            math.exp(total([("weight", backend)])),
            max(0.0, total([k_quant(backend)])),
        )


def fit(points: Iterable[Point]) -> Fit:
    """The posterior after these points."""
    rows = list(points)
    wanted = sorted({n for p in rows for n in names(p)})
    at = {n: i for i, n in enumerate(wanted)}
    mean = np.array([prior(n)[0] for n in wanted])
    precision = np.diag([prior(n)[1] ** -2 for n in wanted])
    target = np.array([math.log(p.tps) for p in rows])
    weight = np.array([1 / (NOISE**2 + p.rounding**2) for p in rows])
    now = mean.copy()
    for _ in range(STEPS):
        jacobian, expected = np.zeros((len(rows), len(wanted))), np.zeros(len(rows))
        value = dict(zip(wanted, now.tolist(), strict=True))
        for i, row in enumerate(rows):
            expected[i], found = slopes(row, value)
            for name, slope in found.items():
                jacobian[i, at[name]] = slope
        curvature = jacobian.T @ (weight[:, None] * jacobian) + precision
        step = np.linalg.solve(
            curvature, jacobian.T @ (weight * (target - expected)) - precision @ (now - mean)
        )
        now = now + step
        if np.abs(step).max() < 1e-9:
            break
    return Fit(
        dict(zip(wanted, now.tolist(), strict=True)),
        np.asarray(np.linalg.inv(curvature), np.float64),
    )


def leave_one_out(points: list[Point]) -> list[tuple[float, float, float]]:
    """Each point's prediction from all the others."""
    return [fit(points[:i] + points[i + 1 :]).predict(point) for i, point in enumerate(points)]


def scores(points: list[Point], predicted: list[tuple[float, float, float]]) -> dict[str, float]:
    """Median and mean of |predicted / measured - 1|, and the share of measured speeds inside their
    interval.
    """
    errors = [abs(value / p.tps - 1) for p, (value, _, _) in zip(points, predicted, strict=True)]
    inside = [low <= p.tps <= high for p, (_, low, high) in zip(points, predicted, strict=True)]
    return {
        "median_ape": float(np.median(errors)),
        "mean_ape": float(np.mean(errors)),
        "coverage90": float(np.mean(inside)),
    }
