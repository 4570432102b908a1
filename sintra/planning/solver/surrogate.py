"""A model of a mix's KLD, fitted to everything measured so far, with an interval of its own.

    u = sum over tensors of exp(a[group] + m[type]) x distortion(tensor, type)
    KLD = exp(f) + u exp(b u / scale)

u is called the quantization loss here. distortion is the relative change of a layer's output in the
metric of its inputs, tr(E H E') / tr(W H W'), which costs no evaluation. a, m, f and b are fitted
by Gauss-Newton on the logarithms of the measured values, with priors: a group's sensitivity is like
the others', a type's factor like 1, the link like a straight line (b = 0; positive is convex,
negative concave: neither is assumed). The prediction's variance is that of the parameters (the
inverse of the normal matrix) plus that of the misfit. Linearity in the per-layer distortion is
HIGGS' theorem (arXiv 2411.17525); that sensitivity times a curve of the type explains most of the
rest was found on Thireus' published per-tensor data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

# Standard deviations of the priors: log sensitivity of a group, log factor of a type, bend, and
# logarithm of the floor.
GROUP_SPREAD, TYPE_SPREAD, BEND_SPREAD, FLOOR_SPREAD = 1.0, 0.25, 0.5, 1.0
FLOOR_SHARE = 0.5  # of the least measured KLD: where the floor is expected
# How much of the groups' common shift the prior leaves free; below 1, so that it can be inverted.
FREE_SHIFT = 0.99
# Share of a measurement's standard error that is its own: all mixes are measured on the same text,
# whose draw is common to them and part of the ratio of the texts.
OWN_ERROR = 0.25
MISFIT = 0.06  # least standard deviation of the model's own error, of the logarithm of the KLD
# Student with five degrees of freedom: what is left of some 25 measurements for the misfit
T90 = 2.02
MAX_STEPS = 40  # of Gauss-Newton
CONVERGED = 1e-6  # largest change of a parameter that ends the fit
TINY = 1e-9  # nats, below which a KLD counts as this

Mix = Mapping[str, str]


@dataclass(frozen=True)
class Observation:
    """A measured mix."""

    mix: Mix  # tensor -> type
    value: float  # mean KLD, nats
    stderr: float  # its standard error, nats


@dataclass(frozen=True)
class Space:
    """What the model is over: each tensor's group and its distortion at each type."""

    groups: Mapping[str, str]  # tensor -> group
    distortion: Mapping[str, Mapping[str, float]]  # type -> tensor -> relative error

    @property
    def group_names(self) -> list[str]:
        """Return the groups in the order of the parameters: sorted."""
        return sorted(set(self.groups.values()))

    @property
    def types(self) -> list[str]:
        """Return the types in the order of the parameters: sorted."""
        return sorted(self.distortion)


@dataclass(frozen=True)
class Prior:
    """What is expected before anything is measured, as (mean, standard deviation) pairs."""

    groups: Mapping[str, tuple[float, float]]  # log sensitivity, up to a shift common to all
    types: Mapping[str, tuple[float, float]]  # log factor on the distortion
    bend: tuple[float, float]  # of the link from loss to KLD

    @staticmethod
    def uninformed(space: Space) -> Prior:
        """Return the prior without any earlier study.

        Groups are alike, types as good as their distortion, the link straight.
        """
        groups = dict.fromkeys(space.group_names, (0.0, GROUP_SPREAD))
        types = dict.fromkeys(space.types, (0.0, TYPE_SPREAD))
        return Prior(groups, types, (0.0, BEND_SPREAD))


@dataclass(frozen=True)
class Surrogate:
    """A fitted model of the KLD."""

    space: Space
    theta: Array
    """Parameters: log sensitivities by group, log factors by type, log of the floor, bend."""
    cov: Array  # covariance of the parameters
    scale: float  # the largest measured KLD, nats: the unit of the bend
    misfit: float  # standard deviation of the model's error, of the logarithm of the KLD

    def weights(self, theta: Array | None = None) -> dict[str, dict[str, float]]:
        """Return tensor -> type -> its share of u, by the fitted parameters or by others."""
        theta = self.theta if theta is None else theta
        groups, types = self.space.group_names, self.space.types
        a = dict(zip(groups, theta[: len(groups)], strict=True))
        m = dict(zip(types, theta[len(groups) : len(groups) + len(types)], strict=True))
        return {
            name: {t: math.exp(a[group] + m[t]) * self.space.distortion[t][name] for t in types}
            for name, group in self.space.groups.items()
        }

    def loss_at(self, kld: float, theta: Array | None = None) -> float:
        """Return the u at which the model predicts a KLD, by bisection.

        0 where the floor is above the KLD, infinite for an infinite KLD.
        """
        if not math.isfinite(kld):
            return kld
        theta = self.theta if theta is None else theta
        low, high = 0.0, max(kld, 1e-12) * 100
        for _ in range(80):
            middle = (low + high) / 2
            below = _kld(middle, theta, self.scale) < kld
            low, high = (middle, high) if below else (low, middle)
        return low

    def predict(self, mix: Mix) -> tuple[float, float, float]:
        """Return the KLD to expect and the ends of its 90 % interval, in nats."""
        value, slope = _kld_and_slope(_distortion_sums(self.space, mix), self.theta, self.scale)
        spread = T90 * math.sqrt(max(0.0, float(slope @ self.cov @ slope)) + self.misfit**2)
        return value, value * math.exp(-spread), value * math.exp(spread)

    def sample(self, rng: np.random.Generator) -> Array:
        """Draw parameters from their posterior distribution."""
        return self.theta + np.linalg.cholesky(
            self.cov + 1e-12 * np.eye(len(self.cov))
        ) @ rng.normal(size=len(self.theta))


def _exponent(u: float, theta: Array, scale: float) -> float:
    return float(np.clip(theta[-1] * u / scale, -1.0, 3.0))


def _kld(u: float, theta: Array, scale: float) -> float:
    return math.exp(theta[-2]) + u * math.exp(_exponent(u, theta, scale))


def _distortion_sums(space: Space, mix: Mix) -> Array:
    """Return the distortion of a mix, summed by (group, type)."""
    groups, types = space.group_names, space.types
    at_group, at_type = ({n: i for i, n in enumerate(x)} for x in (groups, types))
    sums = np.zeros((len(groups), len(types)))
    for name, group in space.groups.items():
        kind = mix[name]
        sums[at_group[group], at_type[kind]] += space.distortion[kind][name]
    return sums


def _kld_and_slope(sums: Array, theta: Array, scale: float) -> tuple[float, Array]:
    """Return the predicted KLD and the gradient of its logarithm by the parameters."""
    groups, types = sums.shape
    parts = sums * np.exp(theta[:groups, None] + theta[groups : groups + types])
    u = float(parts.sum())
    exponent = _exponent(u, theta, scale)
    value = _kld(u, theta, scale)
    per_u = math.exp(exponent) * (1 + exponent) / value
    slope = np.concatenate(
        [
            parts.sum(1) * per_u,
            parts.sum(0) * per_u,
            [math.exp(theta[-2]) / value, u * math.exp(exponent) * (u / scale) / value],
        ]
    )
    return value, slope


def fit_surrogate(
    space: Space,
    observations: Sequence[Observation],
    prior: Prior | None = None,
) -> Surrogate:
    """Return the most probable parameters given what was measured.

    The floor, the KLD of a mix without any distortion, is expected at FLOOR_SHARE of the least that
    was measured: it comes from the runtime's 8-bit activations, 1e-5 nats on the bundled models and
    3e-3 on SmolLM2. Raises ValueError without observations.
    """
    if not observations:
        raise ValueError("nothing has been measured")
    floor = FLOOR_SHARE * min(o.value for o in observations)
    scale = max(o.value for o in observations)
    sums = [_distortion_sums(space, o.mix) for o in observations]
    start, precision = _prior_terms(space, prior or Prior.uninformed(space), floor)
    _shift_groups(start, len(space.group_names), sums, observations)
    theta: Array = start.copy()
    normal = precision
    errors = np.array(
        [math.hypot(OWN_ERROR * o.stderr / max(o.value, TINY), MISFIT) for o in observations]
    )
    for _ in range(MAX_STEPS):
        misses, slopes = _misses(observations, sums, theta, scale)
        weighted = slopes / errors[:, None] ** 2
        normal = precision + weighted.T @ slopes
        step = np.linalg.solve(normal, weighted.T @ misses - precision @ (theta - start))
        theta = theta + np.clip(step, -1.0, 1.0)
        if float(np.abs(step).max()) < CONVERGED:
            break
    misses, _ = _misses(observations, sums, theta, scale)
    cov: Array = np.linalg.inv(normal).astype(np.float64)
    return Surrogate(space, theta, cov, scale, max(MISFIT, float(np.sqrt((misses**2).mean()))))


def _shift_groups(
    start: Array, groups: int, sums: Sequence[Array], observations: Sequence[Observation]
) -> None:
    """Shift all groups' starting sensitivities together, to the middle of what was measured."""
    expected = [float((s * np.exp(start[:groups, None] + start[groups:-2])).sum()) for s in sums]
    start[:groups] += np.median(
        [
            math.log(max(o.value, TINY) / max(u, 1e-30))
            for o, u in zip(observations, expected, strict=True)
        ]
    )


def _misses(
    observations: Sequence[Observation], sums: Sequence[Array], theta: Array, scale: float
) -> tuple[Array, Array]:
    """Return log(measured / predicted) by observation, and the gradients of the predictions."""
    predictions = [_kld_and_slope(s, theta, scale) for s in sums]
    misses = [
        math.log(max(o.value, TINY) / value)
        for o, (value, _) in zip(observations, predictions, strict=True)
    ]
    return np.array(misses), np.array([slope for _, slope in predictions])


def _prior_terms(space: Space, prior: Prior, floor: float) -> tuple[Array, Array]:
    """Return the prior's center and its precision matrix.

    All groups may move together for next to nothing: what is known beforehand is how they stand to
    each other, not how large they are.
    """
    groups = [prior.groups[g] for g in space.group_names]
    types = [prior.types[t] for t in space.types]
    center = np.array(
        [m for m, _ in (*groups, *types)] + [math.log(max(floor, TINY)), prior.bend[0]]
    )
    precision = np.array(
        [s**-2.0 for _, s in (*groups, *types)] + [FLOOR_SPREAD**-2.0, prior.bend[1] ** -2.0]
    )
    matrix, own = np.diag(precision), precision[: len(groups)]
    matrix[: len(groups), : len(groups)] -= FREE_SHIFT * np.outer(own, own) / own.sum()
    return center, matrix
