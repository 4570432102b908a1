"""Tensors of a GGUF as float32, and which parameter of a transformers model each one is.

A parameter and a tensor belong together when the gguf package's name map says so and they hold the
same rows. The converter reorders the rows of some (a Llama's query and key); `row_order` finds the
order by comparing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.gguf.mapped import MappedTensor, open_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

STORED_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}  # ggml type -> torch dtype


def read_tensors(path: Path) -> dict[str, MappedTensor]:
    """Return a GGUF's tensors by name, their data mapped read-only."""
    return {tensor.name: tensor for tensor in open_tensors(path).tensors}


@contextlib.contextmanager
def writable_tensors(path: Path) -> Iterator[dict[str, MappedTensor]]:
    """Map a GGUF's tensors for writing, by name; their data are flushed at the end."""
    file = open_tensors(path, "r+")
    yield {tensor.name: tensor for tensor in file.tensors}
    file.data.flush()


def dequantized(tensor: MappedTensor) -> Tensor:
    """Return a GGUF tensor in float32, (rows, columns) or (n,)."""
    # The gguf package imports numpy, which a run with nothing to do must not load.
    from gguf.quants import dequantize

    return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))


def dequantized_rows(tensor: MappedTensor, rows: int, part: slice) -> Tensor:
    """Return some rows of a tensor in float32, (part, columns).

    rows: how many it has; those of a bank of experts are numbered through.
    """
    # The gguf package imports numpy, which a run with nothing to do must not load.
    from gguf.quants import dequantize

    stored = tensor.data.reshape(rows, -1)[part]
    return torch.from_numpy(np.array(dequantize(stored, tensor.tensor_type), np.float32))


def stored_dtype(tensor: MappedTensor) -> torch.dtype:
    """Return the torch type of an unquantized tensor; float32 for every other one."""
    dtype: torch.dtype = getattr(torch, STORED_DTYPES.get(tensor.tensor_type.name, "float32"))
    return dtype


def parameter_tensors(net: nn.Module, layout: Mapping[str, Any]) -> dict[str, str]:
    """Return parameter name -> GGUF tensor name, of all that the gguf package's map has."""
    import gguf  # imports numpy, which a run with nothing to do must not load

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout["architecture"])
    table = gguf.get_tensor_name_map(arch, layout["shape"]["layers"])
    tensors = {}
    for name, _ in net.named_parameters():
        base, _, last = name.rpartition(".")
        if tensor := table.get_name(base):
            tensors[name] = f"{tensor}.{last}"
    return tensors


def row_order(parameter: Tensor, stored: Tensor, tensor: str, name: str) -> Tensor | None:
    """Return which of the tensor's rows each row of the parameter is; None for the same order.

    parameter, stored: (rows, columns) float32; tensor, name: what messages call the two.
    Raises Infeasible where the rows differ, or are reordered and not all different.
    """
    if torch.equal(parameter, stored):
        return None
    positions = {row.tobytes(): i for i, row in enumerate(stored.numpy())}
    order = [positions.get(row.tobytes(), -1) for row in parameter.numpy()]
    if len(positions) < len(stored) or min(order) < 0:
        raise Infeasible("unsupported", f"polishing: the rows of {tensor} aren't those of {name}")
    return torch.tensor(order)
