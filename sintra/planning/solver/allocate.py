"""The mix of types with the least quantization loss under limits on bytes and time, or the cheapest
mix under a limit on the loss.

Every matrix takes one type; loss and costs are sums over the matrices. First a Lagrangian (a price
on the cost, by bisection) with a greedy fill of what is left, which is exact on the convex hull;
then the mixed-integer program of the same problem (scipy.optimize.milp, HiGHS), which also fills
the gaps of the hull.
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
    Choice = NDArray[np.intp]
else:
    np = lazy.module("numpy")

MIP_GAP = 1e-3  # relative gap to the optimum at which the integer program stops
MIP_SECONDS = 20.0  # time limit of the integer program
FAR_BITS = 2.0  # bits per weight below its class's median at which a type counts as far below


@dataclass(frozen=True)
class ChoiceTable:
    """What the choice of each type for each matrix does: arrays of shape (matrices, types)."""

    names: tuple[str, ...]  # the matrices
    types: tuple[str, ...]  # the tensor types
    loss: Array  # contribution to the quantization loss u (sintra.planning.solver.surrogate)
    size: Array  # bytes in the file
    time: Array  # bytes of ordinary types that take as long to read for one token
    allowed: NDArray[np.bool_]  # where a type may be used at all

    def mix(self, choice: Sequence[int]) -> dict[str, str]:
        """Return tensor name -> type for a choice of a column in each row."""
        return {n: self.types[c] for n, c in zip(self.names, choice, strict=True)}

    def total(self, values: Array, choice: Sequence[int]) -> float:
        """Return the sum of an array's values over a choice."""
        return float(values[np.arange(len(self.names)), list(choice)].sum())


def solve_allocation(
    table: ChoiceTable, objective: Array, limits: Sequence[tuple[Array, float]]
) -> list[int] | None:
    """Choose one type per matrix so that the sum of `objective` is least and every limit holds.

    limits: (values, the most that they may sum to). None where no choice holds them.
    """
    fallback = solve_greedily(table, objective, *limits[0]) if len(limits) == 1 else None
    exact = solve_exactly(table, objective, limits)
    solutions = [choice for choice in (fallback, exact) if choice is not None]
    return min(solutions, key=lambda choice: table.total(objective, choice), default=None)


def solve_greedily(
    table: ChoiceTable, objective: Array, costs: Array, limit: float
) -> list[int] | None:
    """Solve under one limit by Lagrangian relaxation, then by the best single upgrades.

    The relaxation takes the argmin of objective + price x costs, with the price by bisection.
    """
    rows = np.arange(len(table.names))
    barred = np.where(table.allowed, 0.0, np.inf)

    def choice_at(price: float) -> Choice:
        choice: Choice = (objective + barred + price * costs).argmin(1)
        return choice

    if costs[rows, choice_at(0.0)].sum() <= limit:
        return [int(c) for c in choice_at(0.0)]
    values = objective[table.allowed & np.isfinite(objective)]
    low, high = 0.0, float(np.ptp(values)) / max(_smallest_gap(costs[table.allowed]), 1e-30)
    if costs[rows, choice_at(high)].sum() > limit:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        too_much = costs[rows, choice_at(middle)].sum() > limit
        low, high = (middle, high) if too_much else (low, middle)
    return spend_remainder(objective + barred, costs, limit, choice_at(high))


def _smallest_gap(costs: Array) -> float:
    """Return the smallest difference between two costs.

    At a price above the objective's range over this, only the cheapest types are chosen.
    """
    gaps = np.diff(np.unique(costs))
    return float(gaps.min()) if len(gaps) else 1.0


def spend_remainder(objective: Array, costs: Array, limit: float, choice: Choice) -> list[int]:
    """Spend what a choice leaves of the limit, each time on the change that gains most per cost."""
    rows = np.arange(len(choice))
    remaining = limit - float(costs[rows, choice].sum())
    while True:
        gain = objective[rows, choice][:, None] - objective
        extra_cost = costs - costs[rows, choice][:, None]
        possible = np.isfinite(gain) & (gain > 0) & (extra_cost <= remaining)
        if not possible.any():
            return [int(c) for c in choice]
        ratio = np.where(possible, gain / np.maximum(extra_cost, 1e-30), -1.0)
        row, column = divmod(int(ratio.argmax()), ratio.shape[1])
        remaining -= float(extra_cost[row, column])
        choice[row] = column


def solve_exactly(
    table: ChoiceTable, objective: Array, limits: Sequence[tuple[Array, float]]
) -> list[int] | None:
    """Solve the mixed-integer program to a relative gap of MIP_GAP, or return None."""
    from scipy import optimize, sparse  # not on the no-op path

    rows, columns = table.loss.shape
    scale = float(np.abs(objective[np.isfinite(objective)]).max()) or 1.0
    cost = np.where(table.allowed, objective, 0.0).ravel() / scale
    one_per_row = sparse.kron(sparse.eye(rows), np.ones((1, columns)), format="csr")
    constraints = [optimize.LinearConstraint(one_per_row, 1, 1)]
    for values, limit in limits:
        unit = max(abs(limit), 1e-300)
        constraints.append(
            optimize.LinearConstraint(values.ravel()[None, :] / unit, -np.inf, limit / unit)
        )
    with silenced_stdout():
        solution = optimize.milp(
            cost,
            constraints=constraints,
            bounds=optimize.Bounds(0, table.allowed.ravel().astype(float)),
            integrality=np.ones(rows * columns),
            options={"mip_rel_gap": MIP_GAP, "time_limit": MIP_SECONDS},
        )
    if solution.x is None:
        return None
    choice = [int(c) for c in solution.x.reshape(rows, columns).argmax(1)]
    # HiGHS keeps limits only to a tolerance of 1e-6; a file may not be a byte too large.
    return choice if all(table.total(values, choice) <= limit for values, limit in limits) else None


@contextlib.contextmanager
def silenced_stdout() -> Iterator[None]:
    """Discard the process's standard output, where HiGHS prints even with its output turned off."""
    sys.stdout.flush()
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)


def far_types(
    matrices: Sequence[Matrix],
    mix: Mapping[str, str],
    types: Sequence[str],
    far_bits: float = FAR_BITS,
) -> dict[str, set[str]]:
    """Return tensor name -> types that lie far below its class in a mix.

    That is, more than `far_bits` per weight below the class's median. What so low a type does was
    not measured.
    """
    bits: dict[str, list[float]] = defaultdict(list)
    for m in matrices:
        bits[m.kind].append(bits_per_weight(mix[m.name]))
    floor = {kind: statistics.median(values) - far_bits for kind, values in bits.items()}
    return {m.name: {t for t in types if bits_per_weight(t) < floor[m.kind]} for m in matrices}
