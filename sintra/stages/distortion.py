"""What rounding did to each matrix, measured in the metric of its inputs: the cheap half of a
prediction of the damage.

With W the 16-bit weights (rows, columns), E their change and H = X'X / tokens of the inputs:
`output` = tr(E H E') / tr(W H W'), the relative squared error of the layer's output; `diagonal` =
the same with H's diagonal alone, which is what an importance matrix sees; `weights` = |E|^2 /
|W|^2. Matrices whose inputs are unknown (the token embedding) have `weights` for all three.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.tensor_names import renumber_tensor

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

SLICE = 2**24


def run(context: Context) -> None:
    """Write distortion.json: {tensor: {"type", "output", "diagonal", "weights"}}."""
    from sintra.formats.gguf.header import open_gguf

    torch.set_num_threads(context.threads)
    known = json.loads((context.inputs["curvature"] / "curvature.json").read_text())["tensors"]
    of = {
        new: number
        for old, number in known.items()
        if (new := renumber_tensor(old, context.params["dropped"]))
    }
    exact = {t.name: t for t in open_gguf(context.inputs["source"] / "model.gguf").tensors}
    found = {}
    tensors = [
        t for t in open_gguf(context.inputs["gguf"] / "model.gguf").tensors if len(t.shape) > 1
    ]
    for number, tensor in enumerate(tensors):
        if tensor.tensor_type.name in ("F32", "F16", "BF16"):
            continue
        numbers = of.get(tensor.name)
        matrices: list[Tensor | None] = [None]
        if numbers is not None:
            matrices = [
                curvature(context, n) for n in ([numbers] if isinstance(numbers, int) else numbers)
            ]
        found[tensor.name] = {"type": tensor.tensor_type.name} | compare(
            exact[tensor.name], tensor, matrices
        )
        context.say(f"tensor {number + 1} of {len(tensors)}")
    context.write_json("distortion.json", found)


def curvature(context: Context, number: int) -> Tensor:
    """H of a layer, (columns, columns)."""
    return torch.from_numpy(np.load(context.inputs["curvature"] / f"{number:03}.npy"))


def compare(exact: Any, tensor: Any, curvatures: list[Tensor | None]) -> dict[str, float]:
    """The three shares of one tensor; of a bank of experts, their sums' shares."""
    from gguf.quants import dequantize

    columns, rows = int(tensor.shape[0]), tensor.data.reshape(-1, tensor.data.shape[-1]).shape[0]
    old = exact.data.reshape(rows, -1)
    new = tensor.data.reshape(rows, -1)
    sums = np.zeros((2, 3))
    step = max(1, SLICE // columns)
    per = rows // len(curvatures)
    for i, h in enumerate(curvatures):
        for start in range(i * per, (i + 1) * per, step):
            stop = min(start + step, (i + 1) * per)
            w = torch.from_numpy(
                np.array(dequantize(old[start:stop], exact.tensor_type), np.float32)
            )
            e = w - torch.from_numpy(
                np.array(dequantize(new[start:stop], tensor.tensor_type), np.float32)
            )
            sums += np.array([energies(e, h), energies(w, h)])
    output, diagonal, weights = (sums[0] / np.maximum(sums[1], 1e-30)).tolist()
    return {"output": output, "diagonal": diagonal, "weights": weights}


def energies(x: Tensor, h: Tensor | None) -> tuple[float, float, float]:
    """tr(x H x'), the same with H's diagonal, and with none."""
    plain = float(x.square().sum())
    if h is None:
        return plain, plain, plain
    return float(((x @ h) * x).sum()), float((x.square() @ h.diagonal()).sum()), plain


STAGE = Stage("distortion", 1, run, tools=("gguf", "torch"))
