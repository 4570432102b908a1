"""A study's limits as sums over matrices: bytes, seconds, damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.config.study import Study
from sintra.core import lazy
from sintra.core.types import Hardware
from sintra.formats.gguf.sizes import MixSizes, matrix_bytes, written_type
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.estimate import (
    Shape,
    cost,
    kv_bytes,
    memory_beside_weights,
    weights_read,
)
from sintra.planning.solver.allocate import Table, cheapest, floors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

QUALITY = {"kld_mean", "kld_p999", "ppl_ratio", "same_top"}
TASK = "task:"  # metrics of tasks start so
SPEED = {"device_tg_tps", "device_pp_tps", "tg_tps", "pp_tps"}


def of_quality(metric: str) -> bool:
    """Whether a limit on a metric bounds the damage."""
    return metric in QUALITY or metric.startswith(TASK)


@dataclass(frozen=True)
class Problem:
    """What is to be chosen and under which limits. objective: "damage", "size" or "time";
    size_limit in bytes of matrices.
    """

    table: Table
    objective: str
    size_limit: float
    time_limit: float

    def solve(
        self, damage: Array | None = None, most: float | None = None
    ) -> dict[str, str] | None:
        """The best mix, with other weights or under a limit on u where they are given; None where
        there is none.
        """
        t = self.table
        harm = t.damage if damage is None else damage
        objective = {"damage": harm, "size": t.size, "time": t.time}[self.objective]
        limits = [(t.size, self.size_limit), (t.time, self.time_limit)]
        held = [(what, limit) for what, limit in limits if np.isfinite(limit)]
        if self.objective != "damage":
            held.insert(0, (harm, float("inf") if most is None else most))
        if not held:
            held = [(t.size, float(t.size.max(1).sum()) + 1)]
        chosen = cheapest(t, objective, held)
        return None if chosen is None else t.mix(chosen)


def slow_bytes(sizes: MixSizes, shape: Shape, types: Sequence[str], device: Hardware) -> Array:
    """What a token reads of each matrix at each type, in bytes of ordinary types; an untied
    embedding costs nothing.
    """
    free = set() if shape.tied else {"token_embd.weight"}
    return np.array(
        [
            [
                0.0
                if m.name in free
                else matrix_bytes(m, t) * cost(written_type(t, m.columns), device)
                for t in types
            ]
            for m in sizes.matrices
        ]
    )


def time_limit(study: Study, shape: Shape, sizes: MixSizes, kv: str = "f16") -> float:
    """The bytes of matrices (at ordinary speed) that a token may read for the study's tokens/s."""
    device: Hardware = study.hardware
    least = [c.limit for c in study.goal.constraints if c.metric == "device_tg_tps"]
    if thermal.complete(device.thermal):
        part = thermal.sustained(thermal.DEFAULTS | device.thermal)
        least += [
            c.limit / part for c in study.goal.constraints if c.metric == "device_tg_tps_sustained"
        ]
    if not least:
        return float("inf")
    seconds = 1 / max(least) - shape.layers * device.overhead_s_per_layer
    cache = kv_bytes(shape, study.probe.context, kv) / 2 + device.bytes_per_weight * weights_read(
        shape
    )
    return seconds * device.efficiency * device.bandwidth - cache - sizes.beside


def size_limit(study: Study, shape: Shape, sizes: MixSizes, kv: str = "f16") -> float:
    """The bytes that matrices may have for the study's file and memory limits."""
    limits = [c.limit - sizes.rest for c in study.goal.constraints if c.metric == "size_bytes"]
    memory = [c.limit for c in study.goal.constraints if c.metric == "device_ram_bytes"]
    beside = memory_beside_weights(shape, study.probe.context, kv, study.hardware) + sizes.rest
    limits += [m - beside for m in memory]
    if study.board and study.board.full:  # so much didn't fit the board
        limits.append(study.board.full - 1 - beside)
    return min(limits, default=float("inf"))


def problem_of(
    study: Study,
    sizes: MixSizes,
    shape: Shape,
    types: Sequence[str],
    weights: Mapping[str, Mapping[str, float]],
    crushed: set[str],
    kv: str = "f16",
) -> Problem:
    """The study's problem with these weights; `crushed` are types too low for tensors outside the
    blocks, unless measured; kv: the cache's type.
    """
    names = tuple(m.name for m in sizes.matrices)
    damage = np.array([[weights[n][t] for t in types] for n in names])
    size = np.array([[float(matrix_bytes(m, t)) for t in types] for m in sizes.matrices])
    allowed = np.array(
        [[m.block is not None or t not in crushed for t in types] for m in sizes.matrices]
    )
    table = Table(
        names, tuple(types), damage, size, slow_bytes(sizes, shape, types, study.hardware), allowed
    )
    goal = study.goal.optimise
    objective = "damage" if goal in QUALITY else "time" if goal in SPEED else "size"
    return Problem(
        table, objective, size_limit(study, shape, sizes, kv), time_limit(study, shape, sizes, kv)
    )


def floored(problem: Problem, sizes: MixSizes, mix: Mapping[str, str]) -> Problem:
    """The same without types far below their class in a mix."""
    t = problem.table
    barred = floors(sizes.matrices, mix, t.types)
    allowed = t.allowed & np.array([[kind not in barred[n] for kind in t.types] for n in t.names])
    table = Table(t.names, t.types, t.damage, t.size, t.time, allowed)
    return Problem(table, problem.objective, problem.size_limit, problem.time_limit)
