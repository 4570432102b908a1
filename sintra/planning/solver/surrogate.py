"""A model of the damage of a mix, fitted to everything measured so far, with an interval of its
own.

    u = sum over tensors of exp(a[group] + m[type]) x distortion(tensor, type)
    KLD = exp(f) + u exp(b u / scale)

distortion is the relative change of a layer's output in the metric of its inputs, tr(E H E') / tr(W
H W'), which costs no evaluation. a, m, f and b are fitted by Gauss-Newton on the logarithms of the
measured values, with priors: a group's sensitivity is like the others', a type's factor like 1, the
link like a straight line (b = 0; positive is convex, negative concave: neither is assumed). The
prediction's variance is that of the parameters (the inverse of the normal matrix) plus that of the
misfit. Linearity in the per-layer distortion is HIGGS' theorem (arXiv 2411.17525); that sensitivity
times a curve of the type explains most of the rest was found on Thireus' published per-tensor data.
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

PRIOR_GROUP, PRIOR_TYPE, PRIOR_BEND, PRIOR_FLOOR = 1.0, 0.25, 0.5, 1.0
MISFIT = 0.06
# Student with five degrees of freedom: what is left of some 25 measurements for the misfit
T90 = 2.02
STEPS = 40

Mix = Mapping[str, str]


@dataclass(frozen=True)
class Observation:
    """A measured mix: mean KLD in nats and its standard error."""

    mix: Mix
    value: float
    stderr: float


@dataclass(frozen=True)
class Space:
    """What the model is over: each tensor's group, and distortion[type][tensor]."""

    groups: Mapping[str, str]
    distortion: Mapping[str, Mapping[str, float]]

    @property
    def group_names(self) -> list[str]:
        """Sorted."""
        return sorted(set(self.groups.values()))

    @property
    def types(self) -> list[str]:
        """Sorted."""
        return sorted(self.distortion)


@dataclass(frozen=True)
class Belief:
    """What is believed before anything is measured, (mean, standard deviation) each: log
    sensitivities by group, up to a common shift; log factors by type; the bend.
    """

    groups: Mapping[str, tuple[float, float]]
    types: Mapping[str, tuple[float, float]]
    bend: tuple[float, float]

    @staticmethod
    def none(space: Space) -> Belief:
        """Where nothing is known: groups are alike, types as good as their distortion, the link
        straight.
        """
        groups = dict.fromkeys(space.group_names, (0.0, PRIOR_GROUP))
        return Belief(groups, dict.fromkeys(space.types, (0.0, PRIOR_TYPE)), (0.0, PRIOR_BEND))


@dataclass(frozen=True)
class Surrogate:
    """A fitted model. theta: sensitivities by group, factors by type, log of the floor, bend; cov:
    their covariance.
    """

    space: Space
    theta: Array
    cov: Array
    scale: float
    misfit: float

    def weights(self, theta: Array | None = None) -> dict[str, dict[str, float]]:
        """tensor -> type -> its share of u."""
        at = self.theta if theta is None else theta
        groups, types = self.space.group_names, self.space.types
        a = dict(zip(groups, at[: len(groups)], strict=True))
        m = dict(zip(types, at[len(groups) : len(groups) + len(types)], strict=True))
        return {
            name: {t: math.exp(a[group] + m[t]) * self.space.distortion[t][name] for t in types}
            for name, group in self.space.groups.items()
        }

    def u_of(self, kld: float, theta: Array | None = None) -> float:
        """The u at which the model predicts a KLD; 0 where the floor is above it, inf for inf. By
        bisection.
        """
        if not math.isfinite(kld):
            return kld
        at = self.theta if theta is None else theta
        low, high = 0.0, max(kld, 1e-12) * 100
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if _value(middle, at, self.scale) < kld else (low, middle)
        return low

    def predict(self, mix: Mix) -> tuple[float, float, float]:
        """The KLD to expect and its 90 % interval."""
        value, slope = _predict(_shares(self.space, mix), self.theta, self.scale)
        spread = T90 * math.sqrt(max(0.0, float(slope @ self.cov @ slope)) + self.misfit**2)
        return value, value * math.exp(-spread), value * math.exp(spread)

    def draw(self, rng: np.random.Generator) -> Array:
        """Parameters from the posterior: a world in which to look for a good mix."""
        return self.theta + np.linalg.cholesky(
            self.cov + 1e-12 * np.eye(len(self.cov))
        ) @ rng.normal(size=len(self.theta))


def _bend(u: float, theta: Array, scale: float) -> float:
    return float(np.clip(theta[-1] * u / scale, -1.0, 3.0))


def _value(u: float, theta: Array, scale: float) -> float:
    return math.exp(theta[-2]) + u * math.exp(_bend(u, theta, scale))


def _shares(space: Space, mix: Mix) -> Array:
    """The distortion of a mix by (group, type)."""
    groups, types = space.group_names, space.types
    at_group, at_type = ({n: i for i, n in enumerate(x)} for x in (groups, types))
    parts = np.zeros((len(groups), len(types)))
    for name, group in space.groups.items():
        kind = mix[name]
        parts[at_group[group], at_type[kind]] += space.distortion[kind][name]
    return parts


def _predict(shares: Array, theta: Array, scale: float) -> tuple[float, Array]:
    """The value, and the gradient of its logarithm."""
    groups, types = shares.shape
    parts = shares * np.exp(theta[:groups, None] + theta[groups : groups + types])
    u = float(parts.sum())
    bend = _bend(u, theta, scale)
    value = _value(u, theta, scale)
    per_u = math.exp(bend) * (1 + bend) / value
    slope = np.concatenate(
        [
            parts.sum(1) * per_u,
            parts.sum(0) * per_u,
            [math.exp(theta[-2]) / value, u * math.exp(bend) * (u / scale) / value],
        ]
    )
    return value, slope


def fit(
    space: Space, seen: Sequence[Observation], floor: float = 1e-5, belief: Belief | None = None
) -> Surrogate:
    """The most probable parameters given what was measured. Raises ValueError without observations."""
    if not seen:
        raise ValueError("nothing has been measured")
    count = len(space.group_names)
    scale = max(o.value for o in seen)
    shares = [_shares(space, o.mix) for o in seen]
    start, prior = _before(space, belief or Belief.none(space), floor)
    bare = [float((s * np.exp(start[:count, None] + start[count:-2])).sum()) for s in shares]
    start[:count] += np.median(
        [math.log(max(o.value, 1e-9) / max(u, 1e-30)) for o, u in zip(seen, bare, strict=True)]
    )
    centre = start.copy()
    theta: Array = start
    misfit = MISFIT
    normal = prior
    for _ in range(STEPS):
        rows = [_predict(s, theta, scale) for s in shares]
        misses = np.array(
            [math.log(max(o.value, 1e-9) / value) for o, (value, _) in zip(seen, rows, strict=True)]
        )
        errors = np.array([math.hypot(o.stderr / max(o.value, 1e-9), misfit) for o in seen])
        slopes = np.array([s for _, s in rows])
        normal = prior + (slopes / errors[:, None] ** 2).T @ slopes
        step = np.linalg.solve(
            normal, (slopes / errors[:, None] ** 2).T @ misses - prior @ (theta - centre)
        )
        theta = theta + np.clip(step, -1.0, 1.0)
        if float(np.abs(step).max()) < 1e-6:
            break
    rows = [_predict(s, theta, scale) for s in shares]
    misses = np.array(
        [math.log(max(o.value, 1e-9) / v) for o, (v, _) in zip(seen, rows, strict=True)]
    )
    cov: Array = np.linalg.inv(normal).astype(np.float64)
    return Surrogate(space, theta, cov, scale, max(misfit, float(np.sqrt((misses**2).mean()))))


def _before(space: Space, belief: Belief, floor: float) -> tuple[Array, Array]:
    """The prior's centre and precision. All groups may move together for next to nothing: what is
    known beforehand is how they stand to each other, not how large they are.
    """
    groups = [belief.groups[g] for g in space.group_names]
    types = [belief.types[t] for t in space.types]
    centre = np.array(
        [m for m, _ in (*groups, *types)] + [math.log(max(floor, 1e-9)), belief.bend[0]]
    )
    precision = np.array(
        [s**-2.0 for _, s in (*groups, *types)] + [PRIOR_FLOOR**-2.0, belief.bend[1] ** -2.0]
    )
    prior, own = np.diag(precision), precision[: len(groups)]
    prior[: len(groups), : len(groups)] -= 0.99 * np.outer(own, own) / own.sum()
    return centre, prior
