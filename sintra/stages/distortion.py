"""What rounding did to each matrix, measured in the metric of its inputs.

It is the cheap half of a prediction of the loss of quality. With W the 16-bit weights (rows,
columns), E their change and H = X'X / tokens of the inputs:

    output   = tr(E H E') / tr(W H W'), the relative squared error of the layer's output
    diagonal = the same with H's diagonal alone, which is what an importance matrix sees
    weights  = |E|^2 / |W|^2

Matrices whose inputs are unknown (the token embedding) have `weights` for all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.mapped import MappedTensor, open_tensors
from sintra.formats.gguf.sizes import UNQUANTIZED
from sintra.stages.rounding.hessian import hessian_numbers, load_hessian
from sintra.stages.rounding.tensors import dequantized_rows, read_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

SLICE_WEIGHTS = 2**24  # weights that are compared at once


class DistortionJson(TypedDict):
    """A tensor's entry in distortion.json."""

    type: str  # ggml type
    output: float  # a share, see above
    diagonal: float
    weights: float


def run(context: Context) -> None:
    """Write distortion.json: {GGUF tensor: DistortionJson} of every quantized matrix.

    inputs: gguf (a variant), source (the 16-bit GGUF), curvature.
    """
    torch.set_num_threads(context.threads)
    curvature = context.inputs["curvature"]
    numbers = hessian_numbers(curvature, context.params["dropped"])
    exact = read_tensors(context.inputs["source"] / "model.gguf")
    rows: dict[str, DistortionJson] = {}
    variant = open_tensors(context.inputs["gguf"] / "model.gguf")
    tensors = [t for t in variant.tensors if len(t.shape) > 1]
    for number, tensor in enumerate(tensors):
        if tensor.tensor_type.name in UNQUANTIZED:
            continue
        hessians: list[Tensor | None] = [None]
        if tensor.name in numbers:
            hessians = [torch.from_numpy(load_hessian(curvature, n)) for n in numbers[tensor.name]]
        rows[tensor.name] = tensor_distortion(exact[tensor.name], tensor, hessians)
        context.say(f"tensor {number + 1} of {len(tensors)}")
    context.write_json("distortion.json", rows)


def tensor_distortion(
    exact: MappedTensor, variant: MappedTensor, hessians: Sequence[Tensor | None]
) -> DistortionJson:
    """Return the shares of one tensor; of a bank of experts those of the experts' sums.

    hessians: one, or one for each expert, (columns, columns); None where the inputs are unknown.
    """
    columns = int(variant.shape[0])
    rows = variant.data.reshape(-1, variant.data.shape[-1]).shape[0]
    sums = np.zeros((2, 3))
    for h, part in slices(rows, columns, hessians):
        w = dequantized_rows(exact, rows, part)
        e = w - dequantized_rows(variant, rows, part)
        sums += np.array([squared_norms(e, h), squared_norms(w, h)])
    output, diagonal, weights = (sums[0] / np.maximum(sums[1], 1e-30)).tolist()
    return {
        "type": variant.tensor_type.name,
        "output": output,
        "diagonal": diagonal,
        "weights": weights,
    }


def slices(
    rows: int, columns: int, hessians: Sequence[Tensor | None]
) -> Iterator[tuple[Tensor | None, slice]]:
    """Yield a tensor's rows in slices that bound the memory, each with the Hessian of its rows."""
    step, per_expert = max(1, SLICE_WEIGHTS // columns), rows // len(hessians)
    for i, h in enumerate(hessians):
        end = (i + 1) * per_expert
        for start in range(i * per_expert, end, step):
            yield h, slice(start, min(start + step, end))


def squared_norms(x: Tensor, h: Tensor | None) -> tuple[float, float, float]:
    """Return tr(x H x'), the same with H's diagonal, and with the identity.

    x: (rows, columns); h: (columns, columns), the identity where it is None.
    """
    plain = float(x.square().sum())
    if h is None:
        return plain, plain, plain
    return float(((x @ h) * x).sum()), float((x.square() @ h.diagonal()).sum()), plain


STAGE = Stage(
    "distortion",
    1,
    run,
    tools=("gguf", "torch"),
    files=("distortion.json",),
    title="Rounding error",
)
