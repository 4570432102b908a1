"""A transformers model with a GGUF's weights in its place, as things that gradient descent can
move, and the way back.

Needs the checkpoint and the 16-bit GGUF converted from it: a parameter and a tensor belong together
when the gguf package's map says so and they hold the same rows. The converter reorders the rows of
some (a Llama's query and key), adds a constant to others (a Gemma's norms); both are found by
comparing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.tunable import Tunable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


class Student:
    """matrices: parameter -> (what moves, the order of its rows); vectors: norm weights and biases,
    and what the converter added to each; fixed: matrices in types without a grid, as they are.
    tensor: parameter -> GGUF tensor.
    """

    def __init__(self, net: Any, source: Path, quantized: Path, layout: dict[str, Any]) -> None:
        """Raises Infeasible where a weight of the file can't be tied to a parameter."""
        from sintra.formats.gguf.header import open_gguf

        self.net = net
        self.tensor = gguf_tensors(net, layout)
        self.matrices: dict[str, tuple[Tunable, Tensor | None]] = {}
        self.vectors: dict[str, tuple[Tensor, Tensor]] = {}
        self.fixed: dict[str, Tensor] = {}
        exact, made = ({t.name: t for t in open_gguf(path).tensors} for path in (source, quantized))
        if strange := sorted(set(made) - set(self.tensor.values()) - {"rope_freqs.weight"}):
            raise Infeasible(
                "unsupported",
                f"polishing: {strange[0]} can't be tied to a parameter of the checkpoint",
            )
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(False)
            if self.tensor.get(name) in made:
                self._tie(name, parameter, exact[self.tensor[name]], made[self.tensor[name]])

    def _tie(self, name: str, own: Tensor, exact: Any, made: Any) -> None:
        """Put a tensor in its parameter's place."""
        wanted, stored = values(exact), values(made)
        if wanted.numel() != own.numel():
            raise Infeasible("unsupported", f"polishing: {exact.name} isn't of the shape of {name}")
        if own.dim() == 1:
            added = wanted - own.float()
            if float(added.max() - added.min()) > 1e-3:
                raise Infeasible(
                    "unsupported", f"polishing: {exact.name} holds other values than {name}"
                )
            self.vectors[name] = ((stored - added).requires_grad_(), added)
            return
        kept = {"F16": torch.float16, "BF16": torch.bfloat16}.get(
            exact.tensor_type.name, torch.float32
        )
        order = row_order(own.to(kept).float(), wanted, exact.name, name)
        grid = GRIDS.get(made.tensor_type.name)
        if grid is None:
            self.fixed[name] = stored if order is None else stored[order]
            return
        blocks = np.array(made.data).reshape(-1, grid.size)
        self.matrices[name] = (Tunable(blocks, grid, tuple(wanted.shape)), order)

    def weights(self) -> dict[str, Tensor]:
        """Every parameter as the file has it now, with gradients."""
        found = dict(self.fixed)
        for name, (matrix, order) in self.matrices.items():
            found[name] = matrix.weight() if order is None else matrix.weight()[order]
        return found | {name: vector for name, (vector, _) in self.vectors.items()}

    def logits(self, windows: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """(windows, tokens, vocabulary)."""
        out = torch.func.functional_call(self.net, weights, (windows,), {"use_cache": False})
        logits: Tensor = out.logits
        return logits

    def moving(self) -> list[Tensor]:
        """Everything that moves."""
        matrices = [m for m, _ in self.matrices.values()]
        scales = [x for m in matrices for x in ([m.d, m.m] if m.grid.m_at >= 0 else [m.d])]
        return scales + [v for v, _ in self.vectors.values()]

    def state(self) -> list[Tensor]:
        """Everything that moves, copied."""
        return [x.detach().clone() for x in self.moving()]

    def restore(self, state: list[Tensor]) -> None:
        """Back to a copied state."""
        with torch.no_grad():
            for x, old in zip(self.moving(), state, strict=True):
                x.copy_(old)

    def write(self, target: Path) -> None:
        """Into a copy of the quantized file: the payload of what moves, and nothing else."""
        with writable(target) as tensors:
            for name, (matrix, _) in self.matrices.items():
                data = tensors[self.tensor[name]].data
                data[:] = matrix.pack().reshape(data.shape)
            for name, (vector, added) in self.vectors.items():
                data = tensors[self.tensor[name]].data
                data[:] = (vector.detach() + added).numpy().reshape(data.shape)


def gguf_tensors(net: Any, layout: dict[str, Any]) -> dict[str, str]:
    """Parameter -> GGUF tensor, of all that the gguf package's map knows."""
    import gguf

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout["architecture"])
    table = gguf.get_tensor_name_map(arch, layout["shape"]["layers"])
    found = {}
    for name, _ in net.named_parameters():
        base, _, last = name.rpartition(".")
        if known := table.get_name(base):
            found[name] = f"{known}.{last}"
    return found


def values(tensor: Any) -> Tensor:
    """A GGUF tensor in float32, (rows, columns) or (n,)."""
    from gguf.quants import dequantize

    return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))


def row_order(own: Tensor, wanted: Tensor, tensor: str, name: str) -> Tensor | None:
    """Which of the tensor's rows each of the parameter's rows is; None where they are in the same
    order.

    Raises Infeasible where the rows are others, or reordered and not all different.
    """
    if torch.equal(own, wanted):
        return None
    at = {row.tobytes(): i for i, row in enumerate(wanted.numpy())}
    found = [at.get(row.tobytes(), -1) for row in own.numpy()]
    if len(at) < len(wanted) or min(found) < 0:
        raise Infeasible("unsupported", f"polishing: the rows of {tensor} aren't those of {name}")
    return torch.tensor(found)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[dict[str, Any]]:
    """The tensors of a GGUF by name, their data mapped for writing and flushed at the end."""
    from sintra.formats.gguf.header import open_gguf

    reader = open_gguf(path, "r+")
    yield {t.name: t for t in reader.tensors}
    reader.data.flush()
