"""Fit decode speed on published points: classes of backends, devices, variants of devices.

log(tokens/s) = -log(t) + error,   t = (k B + d P) / (e W) + n o

B bytes read a token (k of a K-quant's counts for more), P weights, W the memory's theoretical
bandwidth, n layers. e, the efficiency, is exp(class + device + variant); d, bytes that decoding a
weight costs beside reading it, is the class's; o, the overhead per layer, is of the class and the
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
from sintra.hardware.estimate.published import SpeedPoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

Name = tuple[str, ...]  # of a parameter: what it is, then whose
# Standard deviations of logarithms, picked by marginal likelihood among round numbers
# (docs/decisions.md).
NOISE = 0.05  # of a published speed
VARIANT = 0.05  # among variants of a device
CPU_DEVICE, GPU_DEVICE = 0.30, 0.15  # among devices of a class
OVERHEAD_CLASS = 0.4  # among classes of GPUs
OVERHEAD_DEVICE = 0.4  # among devices of a class
# Few devices stand for the spread among devices, so intervals are Student's: 90 % of t with 8
# degrees of freedom.
NINETY = 1.86
PIVOT = 200e9  # bandwidth at which the GPU overhead is stated, bytes/s
STEPS = 40  # of Gauss-Newton, at most
GPU_OVERHEAD, POWER = ("gpu_overhead",), ("power",)


@dataclass(frozen=True)
class DeviceParameters:
    """Hold a device as the fit sees it.

    Spreads are half-widths of 90 % intervals of the logarithm.
    """

    efficiency: float  # share of the theoretical bandwidth that decoding reaches
    spread: float  # of the speed where reading is all
    overhead_s: float  # per layer, seconds
    overhead_spread: float  # of the overhead
    bytes_per_weight: float  # what decoding a weight costs beside reading it, bytes
    k_quant: float  # extra cost of a byte of a K-quant, as a share


def prior_of(name: Name) -> tuple[float, float]:
    """Return mean and standard deviation of a parameter before any point is seen."""
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
        case ("k_quant", _):
            # llama.cpp, tools/quantize/README.md: Q4_K_M to Q6_K beside F16 and Q8_0 on one GPU
            return 0.10, 0.05
        case ("device", _, backend):
            return 0.0, CPU_DEVICE if backend == "cpu" else GPU_DEVICE
        case ("device_overhead", *_):
            return 0.0, OVERHEAD_DEVICE
    return 0.0, VARIANT


def k_quant_name(backend: str) -> Name:
    """Return the parameter of a K-quant's extra cost: one for CPUs, one for all GPUs."""
    return ("k_quant", "cpu" if backend == "cpu" else "gpu")


def parameter_names(point: SpeedPoint) -> list[Name]:
    """Return the parameters that bear on a point."""
    device, backend = (point.profile, point.backend), point.backend
    names: list[Name] = [
        ("efficiency", backend),
        ("device", *device),
        ("variant", point.profile, point.device),
        ("overhead", backend),
        ("weight", backend),
        k_quant_name(backend),
    ]
    if backend == "cpu":
        return names
    return [*names, ("device_overhead", *device), GPU_OVERHEAD, POWER]


def predict_log_speed(
    point: SpeedPoint, values: dict[Name, float]
) -> tuple[float, dict[Name, float]]:
    """Return log(tokens/s) of a point at these parameters, and its derivative by each."""

    def value(name: Name) -> float:
        return values[name] if name in values else prior_of(name)[0]

    backend, owner = point.backend, (point.profile, point.backend)
    device, variant = ("device", *owner), ("variant", point.profile, point.device)
    efficiency = math.exp(value(("efficiency", backend)) + value(device) + value(variant))
    speed = efficiency * point.bandwidth
    k = 1.0 if "_K" in point.kind else 0.0
    weights = math.exp(value(("weight", backend))) * point.weights / speed
    memory = point.read * (1 + k * value(k_quant_name(backend))) / speed + weights
    log_overhead, scale = value(("overhead", backend)), 0.0
    if backend != "cpu":
        scale = math.log(PIVOT / point.bandwidth)
        log_overhead += (
            value(("device_overhead", *owner)) + value(GPU_OVERHEAD) + value(POWER) * scale
        )
    overhead = point.layers * math.exp(log_overhead)
    total = memory + overhead
    share, rest = memory / total, -overhead / total
    slopes: dict[Name, float] = dict.fromkeys((("efficiency", backend), device, variant), share)
    slopes |= {
        ("overhead", backend): rest,
        ("weight", backend): -weights / total,
        k_quant_name(backend): -k * point.read / speed / total,
    }
    if backend != "cpu":
        slopes |= {("device_overhead", *owner): rest, GPU_OVERHEAD: rest, POWER: rest * scale}
    return -math.log(total), slopes


@dataclass(frozen=True)
class Posterior:
    """Hold what the points say of the parameters that bear on them."""

    value: dict[Name, float]  # means
    covariance: NDArray[np.float64]  # parameters x parameters, in the order of `value`

    def variance(self, slope: dict[Name, float]) -> float:
        """Return the variance of a linear function of the parameters.

        Parameters without points count with their prior.
        """
        weights = np.array([slope.get(n, 0.0) for n in self.value])
        free = sum((s * prior_of(n)[1]) ** 2 for n, s in slope.items() if n not in self.value)
        return float(weights @ self.covariance @ weights) + free

    def predict(self, point: SpeedPoint) -> tuple[float, float, float]:
        """Return the decode speed of a point in tokens/s, and its 90 % interval.

        The point's own speed is not looked at.
        """
        mean, slope = predict_log_speed(point, self.value)
        half = NINETY * math.sqrt(self.variance(slope) + NOISE**2)
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)

    def device(self, profile: str, backend: str, bandwidth: float) -> DeviceParameters:
        """Return a device's parameters, whichever of its variants; bandwidth in bytes/s.

        They are the class's where no point is of the device.
        """
        owner = (profile, backend)
        efficiency: list[Name] = [("efficiency", backend), ("device", *owner)]
        overhead: list[Name] = [("overhead", backend)]
        scale = 0.0
        if backend != "cpu":
            overhead += [GPU_OVERHEAD, ("device_overhead", *owner)]
            scale = math.log(PIVOT / bandwidth)
        slope = dict.fromkeys(overhead, 1.0) | ({POWER: scale} if scale else {})
        log_overhead = self._total(overhead) + (scale * self._total([POWER]) if scale else 0.0)
        spread = math.sqrt(self.variance(dict.fromkeys(efficiency, 1.0)) + VARIANT**2 + NOISE**2)
        return DeviceParameters(
            efficiency=math.exp(self._total(efficiency)),
            spread=NINETY * spread,
            overhead_s=math.exp(log_overhead),
            overhead_spread=NINETY * math.sqrt(self.variance(slope)),
            bytes_per_weight=math.exp(self._total([("weight", backend)])),
            k_quant=max(0.0, self._total([k_quant_name(backend)])),
        )

    def _total(self, names: list[Name]) -> float:
        return sum(self.value.get(n, prior_of(n)[0]) for n in names)


def fit_points(points: Iterable[SpeedPoint]) -> Posterior:
    """Return the posterior after these points."""
    rows = list(points)
    names = sorted({n for p in rows for n in parameter_names(p)})
    mean = np.array([prior_of(n)[0] for n in names])
    precision = np.diag([prior_of(n)[1] ** -2 for n in names])
    target = np.array([math.log(p.tps) for p in rows])
    weight = np.array([1 / (NOISE**2 + p.rounding**2) for p in rows])
    now = mean.copy()
    for _ in range(STEPS):
        jacobian, expected = _linearize(rows, names, now)
        curvature = jacobian.T @ (weight[:, None] * jacobian) + precision
        step = np.linalg.solve(
            curvature, jacobian.T @ (weight * (target - expected)) - precision @ (now - mean)
        )
        now = now + step
        if np.abs(step).max() < 1e-9:
            break
    return Posterior(
        dict(zip(names, now.tolist(), strict=True)),
        np.asarray(np.linalg.inv(curvature), np.float64),
    )


def _linearize(
    rows: list[SpeedPoint], names: list[Name], at: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the derivatives (points x parameters) and the values of log(tokens/s)."""
    jacobian, expected = np.zeros((len(rows), len(names))), np.zeros(len(rows))
    column = {name: i for i, name in enumerate(names)}
    values = dict(zip(names, at.tolist(), strict=True))
    for i, row in enumerate(rows):
        expected[i], slopes = predict_log_speed(row, values)
        for name, slope in slopes.items():
            jacobian[i, column[name]] = slope
    return jacobian, expected


def leave_one_out(points: list[SpeedPoint]) -> list[tuple[float, float, float]]:
    """Return each point's prediction from all the others: tokens/s, low, high."""
    return [
        fit_points(points[:i] + points[i + 1 :]).predict(point) for i, point in enumerate(points)
    ]


def score_predictions(
    points: list[SpeedPoint], predicted: list[tuple[float, float, float]]
) -> dict[str, float]:
    """Return how far predictions (tokens/s, low, high) are from what was measured.

    median_ape and mean_ape: of |predicted / measured - 1|; coverage90: the share of measured speeds
    inside their interval.
    """
    errors = [abs(value / p.tps - 1) for p, (value, _, _) in zip(points, predicted, strict=True)]
    inside = [low <= p.tps <= high for p, (_, low, high) in zip(points, predicted, strict=True)]
    return {
        "median_ape": float(np.median(errors)),
        "mean_ape": float(np.mean(errors)),
        "coverage90": float(np.mean(inside)),
    }
