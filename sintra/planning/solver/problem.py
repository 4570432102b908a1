"""A study's limits as sums over matrices: bytes, seconds, quantization loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sintra.config.study import Study
from sintra.core import lazy
from sintra.core.metrics import QUALITY, SPEED, TASK
from sintra.core.types import Hardware
from sintra.formats.gguf.sizes import MixSizes, matrix_bytes, written_type
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.attention import cache_read, mean_cached
from sintra.hardware.estimate.estimate import (
    Shape,
    device_type_cost,
    memory_beside_weights,
    overhead_seconds,
    weights_read,
)
from sintra.planning.solver.allocate import ChoiceTable, far_types, solve_allocation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    np = lazy.module("numpy")

Objective = Literal["loss", "size", "time"]


def is_quality(metric: str) -> bool:
    """Say whether a limit on a metric bounds the quantization loss."""
    return metric in QUALITY or metric.startswith(TASK)


@dataclass(frozen=True)
class Problem:
    """Which types are to be chosen, what is to be least, and under which limits."""

    table: ChoiceTable
    objective: Objective  # the array of the table whose sum is to be least
    size_limit: float  # bytes that the matrices may have
    time_limit: float  # bytes of ordinary types that a token may read, for the limit on speed

    def solve(
        self, loss: Array | None = None, max_loss: float | None = None
    ) -> dict[str, str] | None:
        """Return the best mix, tensor name -> type; None where no mix holds the limits.

        loss: (matrices, types) instead of the table's; max_loss: the most that it may sum to,
        where it isn't the objective itself.
        """
        table = self.table
        loss = table.loss if loss is None else loss
        objective = {"loss": loss, "size": table.size, "time": table.time}[self.objective]
        limits = [(table.size, self.size_limit), (table.time, self.time_limit)]
        finite = [(values, limit) for values, limit in limits if np.isfinite(limit)]
        if self.objective != "loss":
            finite.insert(0, (loss, float("inf") if max_loss is None else max_loss))
        if not finite:
            finite = [(table.size, float(table.size.max(1).sum()) + 1)]
        choice = solve_allocation(table, objective, finite)
        return None if choice is None else table.mix(choice)


def read_costs(sizes: MixSizes, shape: Shape, types: Sequence[str], device: Hardware) -> Array:
    """Return what a token reads of each matrix at each type, (matrices, types).

    In bytes of ordinary types: slower types count more. An untied embedding costs nothing.
    """
    free = set() if shape.tied else {"token_embd.weight"}
    return np.array(
        [
            [
                0.0
                if m.name in free
                else matrix_bytes(m, t) * device_type_cost(written_type(t, m.columns), device)
                for t in types
            ]
            for m in sizes.matrices
        ]
    )


def time_limit(study: Study, shape: Shape, sizes: MixSizes, kv: str = "f16") -> float:
    """Return the bytes of matrices, of ordinary types, that a token may read.

    They follow from the study's limits on tokens/s; infinite without such a limit.
    """
    device: Hardware = study.hardware
    least = [c.limit for c in study.goal.constraints if c.metric == "device_tg_tps"]
    if thermal.is_complete(device.thermal):
        part = thermal.sustained_speed(thermal.ThermalModel.of(device.thermal))
        least += [
            c.limit / part for c in study.goal.constraints if c.metric == "device_tg_tps_sustained"
        ]
    if not least:
        return float("inf")
    seconds = 1 / max(least) - overhead_seconds(shape, device)
    cached = mean_cached(study.context, study.depth)
    beside = cache_read(shape, device, cached, kv) + device.bytes_per_weight * weights_read(shape)
    return seconds * device.efficiency * device.bandwidth - beside - sizes.beside


def size_limit(study: Study, shape: Shape, sizes: MixSizes, kv: str = "f16") -> float:
    """Return the bytes that matrices may have for the study's limits on file and memory.

    Infinite without such a limit.
    """
    limits = [c.limit - sizes.rest for c in study.goal.constraints if c.metric == "size_bytes"]
    memory = [c.limit for c in study.goal.constraints if c.metric == "device_ram_bytes"]
    beside = memory_beside_weights(shape, study.context, kv, study.hardware) + sizes.rest
    limits += [m - beside for m in memory]
    if study.board and study.board.full:  # so much didn't fit the board
        limits.append(study.board.full - 1 - beside)
    return min(limits, default=float("inf"))


def build_problem(
    study: Study,
    sizes: MixSizes,
    shape: Shape,
    types: Sequence[str],
    weights: Mapping[str, Mapping[str, float]],
    block_only: set[str],
    kv: str = "f16",
) -> Problem:
    """Return the study's problem with given weights of the loss, tensor -> type -> weight.

    block_only: types too low for tensors outside the blocks; kv: type of the KV cache.
    """
    goal = study.goal.optimise
    table = ChoiceTable(
        names=tuple(m.name for m in sizes.matrices),
        types=tuple(types),
        loss=np.array([[weights[m.name][t] for t in types] for m in sizes.matrices]),
        size=np.array([[float(matrix_bytes(m, t)) for t in types] for m in sizes.matrices]),
        time=read_costs(sizes, shape, types, study.hardware),
        allowed=np.array(
            [[m.block is not None or t not in block_only for t in types] for m in sizes.matrices]
        ),
    )
    return Problem(
        table,
        "loss" if goal in QUALITY else "time" if goal in SPEED else "size",
        size_limit(study, shape, sizes, kv),
        time_limit(study, shape, sizes, kv),
    )


def without_far_types(problem: Problem, sizes: MixSizes, mix: Mapping[str, str]) -> Problem:
    """Bar the types that lie far below their class in a mix."""
    table = problem.table
    barred = far_types(sizes.matrices, mix, table.types)
    near = np.array([[kind not in barred[n] for kind in table.types] for n in table.names])
    return replace(problem, table=replace(table, allowed=table.allowed & near))
