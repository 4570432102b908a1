"""Compensated rounding of a whole GGUF in place, tensor after tensor.

Only scales and codes change. Finished tensors are kept, so that a killed run goes on behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from sintra.core import lazy
from sintra.formats.gguf.mapped import MappedTensor, open_tensors
from sintra.stages.rounding.compensate import Compensation, compensate
from sintra.stages.rounding.damped import CompensationOptions, DampedHessian
from sintra.stages.rounding.grid import Grid
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.hessian import hessian_numbers, load_hessian
from sintra.stages.rounding.tensors import read_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

# An output that is also the embedding is looked up too, where every change counts alike. Its
# damping lies between the two metrics.
EMBEDDING, SHARED_DAMPING = "token_embd.weight", 1.0


class RoundingJson(TypedDict):
    """The value "rounding" of a layout.json."""

    compensated: dict[str, list[float]]  # tensor -> [tr(E H E') before, after]
    nearest: list[list[str]]  # [tensor, why it was left as it was]


@dataclass(frozen=True)
class RoundingSources:
    """What a file's tensors are rounded from."""

    exact: Mapping[str, MappedTensor]  # the 16-bit file's tensors
    alternative: Mapping[str, MappedTensor]  # a file's with other scales, also rounded to nearest
    curvature: Path  # folder of the Hessians
    numbers: Mapping[str, list[int]]  # tensor -> its Hessians, one or one for each expert
    options: CompensationOptions  # for all tensors but an embedding that is the output too


class RoundedTensor(NamedTuple):
    """A tensor's new blocks and the measure of its error."""

    blocks: NDArray[np.uint8]  # raw blocks, (blocks, bytes of a block)
    measure: NDArray[np.float64]  # (2,): tr(E H E') before and after, summed over experts


def compensate_file(
    target: Path,
    source: Path,
    curvature: Path,
    keep: Path,
    say: Callable[[str], None],
    dropped: list[int] | None = None,
    options: CompensationOptions | None = None,
    alternative: Path | None = None,
) -> RoundingJson:
    """Round the tensors of `target` (quantized to nearest) anew, towards `source` (16 bits).

    curvature: a curvature artifact; keep: a folder for finished tensors; dropped: the blocks that
    both files lack; alternative: the same file with other scales, from which rows may start too.
    """
    numbers = hessian_numbers(curvature, dropped or [])
    other = read_tensors(alternative) if alternative else {}
    sources = RoundingSources(
        read_tensors(source), other, curvature, numbers, options or CompensationOptions()
    )
    keep.mkdir(parents=True, exist_ok=True)
    rounding: RoundingJson = {"compensated": {}, "nearest": []}
    file = open_tensors(target, "r+")
    tensors = [t for t in file.tensors if len(t.shape) > 1]
    for number, tensor in enumerate(tensors):
        kind, name = tensor.tensor_type.name, tensor.name
        grid = GRIDS.get(kind)
        if grid is None or name not in numbers:
            reason = f"{kind} has no grid here" if grid is None else "no curvature is known"
            rounding["nearest"].append([name, reason])
            continue
        rounded = finished_tensor(tensor, grid, sources, keep)
        tensor.data[:] = rounded.blocks.reshape(tensor.data.shape)
        measure = [float(x) for x in rounded.measure]
        rounding["compensated"][name] = measure
        share = measure[1] / max(measure[0], 1e-30)
        say(f"tensor {number + 1} of {len(tensors)}: {name} {kind}, {share:.2f} of the error")
    file.data.flush()
    return rounding


def finished_tensor(
    tensor: MappedTensor, grid: Grid, sources: RoundingSources, keep: Path
) -> RoundedTensor:
    """Return a tensor's rounding, from `keep` where an earlier run has finished it."""
    path = keep / f"{tensor.name}.npz"
    if not path.exists():
        rounded = round_tensor(tensor, grid, sources)
        part = keep / "part.npz"
        np.savez(part, blocks=rounded.blocks, measure=rounded.measure)
        part.replace(path)
    with np.load(path) as saved:
        return RoundedTensor(saved["blocks"], saved["measure"])


def round_tensor(tensor: MappedTensor, grid: Grid, sources: RoundingSources) -> RoundedTensor:
    """Round one tensor; of a bank of experts, each expert with its own Hessian."""
    # The gguf package imports numpy, which a run with nothing to do must not load.
    from gguf.quants import dequantize

    name, numbers, options = tensor.name, sources.numbers[tensor.name], sources.options
    files = (tensor, sources.alternative.get(name))
    starts = [
        np.array(file.data).reshape(len(numbers), -1, grid.size)
        for file in files
        if file is not None and file.tensor_type == tensor.tensor_type
    ]
    exact = sources.exact[name]
    w = dequantize(exact.data, exact.tensor_type)
    w = w.reshape(len(numbers), -1, w.shape[-1])
    if name == EMBEDDING:
        options = replace(options, damping=SHARED_DAMPING)
    experts = [
        compensate(
            w[i],
            [start[i] for start in starts],
            grid,
            read_hessian(sources.curvature, number, options),
            options,
        )
        for i, number in enumerate(numbers)
    ]
    return joined(experts)


@lru_cache(maxsize=2)  # of layers that read the same, such as query, key and value
def read_hessian(curvature: Path, number: int, options: CompensationOptions) -> DampedHessian:
    """Return a Hessian of a curvature artifact, damped and factored."""
    return DampedHessian(load_hessian(curvature, number), options)


def joined(experts: Sequence[Compensation]) -> RoundedTensor:
    """Join the experts of a bank, or the single matrix, to one tensor."""
    measure = np.array([(expert.before, expert.after) for expert in experts]).sum(0)
    return RoundedTensor(np.concatenate([expert.blocks for expert in experts]), measure)
