"""Compensated rounding: codes chosen so that a layer's output changes least.

It is GPTQ's rounding (arXiv 2210.17323) onto a grid of ggml. The measure is tr(E H E') with E the
change of the weights (rows, columns) and H = X'X of the layer's inputs, damped. First columns are
rounded one by one, those of the largest curvature first; the columns that are left absorb the
error. Weights that share a codeword are rounded together (sintra.stages.rounding.codebook). Then,
in sweeps, scales and mins are fitted to the chosen codes and codes to the scales; no such step can
raise the measure. Rows are independent given H, so they are taken in slices that bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding import on_cpu, on_gpu
from sintra.stages.rounding.damped import CompensationOptions, DampedHessian
from sintra.stages.rounding.grid import Grid

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

CPU_WEIGHTS, GPU_WEIGHTS = 2**20, 2**24  # weights that are rounded at once, at most
FEWEST_SLICES = 8  # of a matrix with enough rows, on a CPU: one thread takes one at a time


class Compensation(NamedTuple):
    """A rounded matrix, and tr(E H E') of the damped H divided by its mean diagonal."""

    blocks: NDArray[np.uint8]  # raw blocks, (rows * columns / block, bytes of a block)
    before: float  # the measure of each row's better start, summed over rows
    after: float  # the measure of the blocks, summed over rows


def compensate(
    w: NDArray[np.float32],
    starts: list[NDArray[np.uint8]],
    grid: Grid,
    hessian: DampedHessian,
    options: CompensationOptions | None = None,
) -> Compensation:
    """Return better blocks of the same type for weights w (rows, columns).

    starts: raw blocks (rows * columns / block, bytes of a block), rounded to nearest with the
    scales of one quantizer or of several (with and without importance matrix); every row takes the
    start that serves it best. hessian: of the layer's inputs, made with the same options.
    """
    chosen = options or CompensationOptions()
    rows, columns = w.shape
    step, per_row = rows_of_slice(rows, columns, hessian.h.device.type), columns // grid.block
    blocks = np.empty_like(starts[0])
    hessian.factored(grid.together)  # here, so that threads don't make them twice
    _ = grid.codebook and grid.codebook.arrays
    round_rows = on_cpu.round_rows if hessian.h.device.type == "cpu" else on_gpu.round_rows

    def round_slice(first: int) -> tuple[float, float]:
        part = slice(first * per_row, min(first + step, rows) * per_row)
        own = torch.from_numpy(np.array(w[first : first + step], np.float32))
        blocks[part], *measures = round_rows(
            own, [start[part] for start in starts], grid, hessian, chosen
        )
        return measures[0], measures[1]

    measures = in_threads(round_slice, range(0, rows, step), hessian.h.device.type)
    return Compensation(blocks, *(float(x) for x in np.sum(measures, 0)))


def rows_of_slice(rows: int, columns: int, device: str) -> int:
    """Return how many rows are rounded at once: on a CPU some for each of a few threads.

    It doesn't depend on the number of threads, so that the blocks don't.
    """
    if device != "cpu":
        return max(1, GPU_WEIGHTS // columns)
    slices = max(-(-rows * columns // CPU_WEIGHTS), min(FEWEST_SLICES, rows // 128), 1)
    return -(-rows // slices // 64) * 64


def in_threads(
    work: Callable[[int], tuple[float, float]], items: Iterable[int], device: str
) -> list[tuple[float, float]]:
    """Return what `work` returns for each item; on a CPU each of torch's threads takes items."""
    threads = torch.get_num_threads()
    if device != "cpu" or threads == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        done = list(pool.map(work, items))
    torch.set_num_threads(threads)
    return done
