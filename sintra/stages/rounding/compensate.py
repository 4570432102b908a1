"""Compensated rounding: codes chosen so that a layer's output changes least.

It is GPTQ's rounding (arXiv 2210.17323) onto a grid of ggml. The measure is tr(E H E') with E the
change of the weights (rows, columns) and H = X'X of the layer's inputs, damped. First columns are
rounded one by one, those of the largest curvature first; the columns that are left absorb the
error. Then, in sweeps, scales and mins are fitted to the chosen codes and codes to the scales; no
such step can raise the measure. Rows are independent given H, so they are taken in slices that
bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.stages.rounding import on_cpu, on_gpu
from sintra.stages.rounding.grids import Grid

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

CPU_WEIGHTS, GPU_WEIGHTS = 2**20, 2**24  # weights that are rounded at once, at most
FEWEST_SLICES = 8  # of a matrix with enough rows, on a CPU: one thread takes one at a time


@dataclass(frozen=True)
class CompensationOptions:
    """How a matrix is rounded."""

    damping: float = 0.01  # share of H's mean diagonal that is added to the diagonal
    sweeps: int = 4  # passes of fitting after GPTQ's
    lazy: int = 128  # columns between full updates: a divisor or multiple of the grid's block
    ordered: bool = True  # whether GPTQ takes the largest diagonal first


class Compensation(NamedTuple):
    """A rounded matrix, and tr(E H E') of the damped H divided by its mean diagonal."""

    blocks: NDArray[np.uint8]  # raw blocks, (rows * columns / block, bytes of a block)
    before: float  # the measure of each row's better start, summed over rows
    after: float  # the measure of the blocks, summed over rows


class DampedHessian:
    """H, damped and divided by its mean diagonal, and what GPTQ needs of it.

    It is computed once for all rows of a tensor.
    """

    h: Tensor
    """(columns, columns) float32."""
    order: Tensor
    """The order in which GPTQ takes the columns, (columns,) int64."""
    upper: Tensor
    """Upper Cholesky factor of the inverse of H in that order, (columns, columns) float32."""

    def __init__(self, h: NDArray[np.float32], options: CompensationOptions) -> None:
        """Damp and factor H (columns, columns)."""
        self.h = damped_hessian(h, options.damping).to(compute_device())
        diagonal = self.h.diagonal()
        natural = torch.arange(len(diagonal), device=self.h.device)
        self.order = diagonal.argsort(descending=True, stable=True) if options.ordered else natural
        # H = R R' with R upper, so R's inverse is the upper Cholesky factor of H's inverse.
        flipped = self.h[self.order][:, self.order].double().flip(0, 1)
        r = torch.linalg.cholesky(flipped).flip(0, 1)
        eye = torch.eye(len(r), dtype=torch.float64, device=r.device)
        self.upper = torch.linalg.solve_triangular(r, eye, upper=True).float()


def compute_device() -> str:
    """Return the device of the arithmetic: "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def damped_hessian(h: NDArray[np.float32], share: float) -> Tensor:
    """Return H divided by its mean diagonal, with a share of that mean added to the diagonal.

    The identity where there is no input at all. (columns, columns) float32.
    """
    damped = torch.tensor(h, dtype=torch.float32)
    mean = float(damped.diagonal().double().mean())
    if mean <= 0:
        return torch.eye(len(damped))
    damped /= mean
    damped.diagonal().add_(share)
    return damped


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
