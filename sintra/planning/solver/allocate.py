"""The mix of types that does the least damage under limits on bytes and time, or costs least under
a limit on damage.

Every matrix takes one type; damage and costs are sums over the matrices. First a Lagrangian (a
price on the cost, found by bisection) with a greedy fill of what is left, which is exact on the
convex hull; then the mixed-integer program of the same problem (scipy.optimize.milp, HiGHS), which
also fills the gaps of the hull.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.formats.gguf.sizes import Matrix, bits_per_weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

GAP, SECONDS = 1e-3, 20.0


@dataclass(frozen=True)
class Table:
    """What every choice does: (matrices, types) arrays. allowed: where a type may be used at all."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    damage: Array
    size: Array
    time: Array
    allowed: NDArray[np.bool_]

    def mix(self, chosen: Sequence[int]) -> dict[str, str]:
        """Tensor name -> type."""
        return {n: self.types[c] for n, c in zip(self.names, chosen, strict=True)}

    def total(self, what: Array, chosen: Sequence[int]) -> float:
        """The sum over a choice."""
        return float(what[np.arange(len(self.names)), list(chosen)].sum())


def cheapest(
    table: Table, objective: Array, limits: Sequence[tuple[Array, float]]
) -> list[int] | None:
    """One type for each matrix, so that the sum of `objective` is least and every (what, limit)
    holds; None: impossible.
    """
    fallback = greedy(table, objective, *limits[0]) if len(limits) == 1 else None
    exact = milp(table, objective, limits)
    found = [c for c in (fallback, exact) if c is not None]
    return min(found, key=lambda c: table.total(objective, c)) if found else None


def greedy(table: Table, objective: Array, what: Array, limit: float) -> list[int] | None:
    """By Lagrangian relaxation: argmin of objective + price x what, the price by bisection; then
    the best single upgrades.
    """
    rows = np.arange(len(table.names))
    barred = np.where(table.allowed, 0.0, np.inf)

    def at(price: float) -> NDArray[np.intp]:
        choice: NDArray[np.intp] = (objective + barred + price * what).argmin(1)
        return choice

    if what[rows, at(0.0)].sum() <= limit:
        return [int(c) for c in at(0.0)]
    values = objective[table.allowed & np.isfinite(objective)]
    low, high = 0.0, float(np.ptp(values)) / max(_step(what[table.allowed]), 1e-30)
    if what[rows, at(high)].sum() > limit:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if what[rows, at(middle)].sum() > limit else (low, middle)
    return fill(table, objective + barred, what, limit, at(high))


def _step(costs: Array) -> float:
    """The smallest difference between two costs: above this price for it, only the cheapest are
    chosen.
    """
    gaps = np.diff(np.unique(costs))
    return float(gaps.min()) if len(gaps) else 1.0


def fill(
    table: Table, objective: Array, what: Array, limit: float, chosen: NDArray[np.intp]
) -> list[int]:
    """Spend what is left: again and again the change that gains most for its cost."""
    rows = np.arange(len(table.names))
    left = limit - float(what[rows, chosen].sum())
    while True:
        gain = objective[rows, chosen][:, None] - objective
        cost = what - what[rows, chosen][:, None]
        good = np.isfinite(gain) & (gain > 0) & (cost <= left)
        if not good.any():
            return [int(c) for c in chosen]
        worth = np.where(good, gain / np.maximum(cost, 1e-30), -1.0)
        row, column = divmod(int(worth.argmax()), worth.shape[1])
        left -= float(cost[row, column])
        chosen[row] = column


def milp(table: Table, objective: Array, limits: Sequence[tuple[Array, float]]) -> list[int] | None:
    """The exact optimum (to a relative gap of 1e-3), or None."""
    from scipy import optimize, sparse

    rows, columns = table.damage.shape
    scale = float(np.abs(objective[np.isfinite(objective)]).max()) or 1.0
    cost = np.where(table.allowed, objective, 0.0).ravel() / scale
    one = sparse.kron(sparse.eye(rows), np.ones((1, columns)), format="csr")
    constraints = [optimize.LinearConstraint(one, 1, 1)]
    for what, limit in limits:
        unit = max(abs(limit), 1e-300)
        constraints.append(
            optimize.LinearConstraint(what.ravel()[None, :] / unit, -np.inf, limit / unit)
        )
    bounds = optimize.Bounds(0, table.allowed.ravel().astype(float))
    with silence():
        found = optimize.milp(
            cost,
            constraints=constraints,
            bounds=bounds,
            integrality=np.ones(rows * columns),
            options={"mip_rel_gap": GAP, "time_limit": SECONDS},
        )
    if found.x is None:
        return None
    chosen = [int(c) for c in found.x.reshape(rows, columns).argmax(1)]
    # HiGHS keeps limits to a tolerance of 1e-6 only; a file may not be a byte too large.
    return chosen if all(table.total(what, chosen) <= limit for what, limit in limits) else None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without what HiGHS prints to the process's standard output even when it is told not to."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def floors(
    matrices: Sequence[Matrix], mix: Mapping[str, str], types: Sequence[str], far: float = 2.0
) -> dict[str, set[str]]:
    """Types that lie more than `far` bits a weight below the median of a mix's class: barred,
    unless measured.
    """
    bits: dict[str, list[float]] = defaultdict(list)
    for m in matrices:
        bits[m.kind].append(bits_per_weight(mix[m.name]))
    least = {kind: statistics.median(values) - far for kind, values in bits.items()}
    return {m.name: {t for t in types if bits_per_weight(t) < least[m.kind]} for m in matrices}
