"""A transformers model with a quantized GGUF's weights, which gradient descent can move.

Needs the checkpoint and the 16-bit GGUF that was converted from it. Matrices are matched to
parameters by their rows (sintra.stages.rounding.tensors). The converter adds a constant to some
vectors (a Gemma's norms), which is found by comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.tensors import (
    dequantized,
    parameter_tensors,
    read_tensors,
    row_order,
    stored_dtype,
    writable_tensors,
)
from sintra.stages.rounding.tunable import TunableMatrix

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from sintra.formats.gguf.mapped import MappedTensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


class TunableVector(NamedTuple):
    """A norm's weights or a bias, as the parameter holds it."""

    values: Tensor  # (n,) float32, trained
    added: Tensor  # what the converter added to the parameter, (n,) float32


class Student:
    """The quantized model: what is trained, what stays, and the way back into the file."""

    net: Any
    """The transformers model whose parameters are replaced when it is run."""
    tensor_names: dict[str, str]
    """Parameter -> GGUF tensor."""
    matrices: dict[str, TunableMatrix]
    """Parameter -> matrix in a type with a grid."""
    vectors: dict[str, TunableVector]
    """Parameter -> norm weights or bias."""
    fixed: dict[str, Tensor]
    """Parameter -> matrix in a type without a grid, (rows, columns) float32; it stays as it is."""

    def __init__(self, net: Any, source: Path, quantized: Path, layout: Mapping[str, Any]) -> None:
        """Put the weights of `quantized` in the place of the parameters.

        source: the 16-bit GGUF; layout: that of `quantized`.
        Raises Infeasible where a tensor of the file doesn't fit a parameter.
        """
        self.net = net
        self.tensor_names = parameter_tensors(net, layout)
        self.matrices, self.vectors, self.fixed = {}, {}, {}
        exact, variant = read_tensors(source), read_tensors(quantized)
        names = set(self.tensor_names.values())
        if unmatched := sorted(set(variant) - names - {"rope_freqs.weight"}):
            raise Infeasible(
                "unsupported",
                f"polishing: {unmatched[0]} can't be tied to a parameter of the checkpoint",
            )
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(False)
            tensor = self.tensor_names.get(name)
            if tensor in variant:
                self._replace(name, parameter, exact[tensor], variant[tensor])

    def _replace(
        self, name: str, parameter: Tensor, exact: MappedTensor, variant: MappedTensor
    ) -> None:
        """Put a tensor of the file in its parameter's place."""
        original, stored = dequantized(exact), dequantized(variant)
        if original.numel() != parameter.numel():
            raise Infeasible("unsupported", f"polishing: {exact.name} isn't of the shape of {name}")
        if parameter.dim() == 1:
            self.vectors[name] = tunable_vector(parameter, original, stored, exact.name, name)
            return
        rows = parameter.to(stored_dtype(exact)).float()
        order = row_order(rows, original, exact.name, name)
        grid = GRIDS.get(variant.tensor_type.name)
        if grid is None:
            self.fixed[name] = stored if order is None else stored[order]
            return
        blocks = np.array(variant.data).reshape(-1, grid.size)
        self.matrices[name] = TunableMatrix(blocks, grid, tuple(original.shape), order)

    def weights(self) -> dict[str, Tensor]:
        """Return every parameter as the file has it now, with gradients."""
        matrices = {name: matrix.parameter() for name, matrix in self.matrices.items()}
        vectors = {name: vector.values for name, vector in self.vectors.items()}
        return self.fixed | matrices | vectors

    def logits(self, windows: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return the logits of windows of token ids, (windows, tokens, vocabulary)."""
        out = torch.func.functional_call(self.net, weights, (windows,), {"use_cache": False})
        logits: Tensor = out.logits
        return logits

    def trained(self) -> list[Tensor]:
        """Return all tensors that training moves: the scales, then the vectors."""
        scales = [
            scale
            for matrix in self.matrices.values()
            for scale in matrix.of_halves(matrix.d, matrix.m)
        ]
        return scales + [vector.values for vector in self.vectors.values()]

    def state(self) -> list[Tensor]:
        """Return a copy of all tensors that training moves."""
        return [x.detach().clone() for x in self.trained()]

    def restore(self, state: list[Tensor]) -> None:
        """Go back to a copied state."""
        with torch.no_grad():
            for x, saved in zip(self.trained(), state, strict=True):
                x.copy_(saved)

    def write(self, target: Path) -> None:
        """Write what training moves into a copy of the quantized file, and nothing else."""
        with writable_tensors(target) as tensors:
            for name, matrix in self.matrices.items():
                data = tensors[self.tensor_names[name]].data
                data[:] = matrix.pack().reshape(data.shape)
            for name, vector in self.vectors.items():
                data = tensors[self.tensor_names[name]].data
                data[:] = (vector.values.detach() + vector.added).numpy().reshape(data.shape)


def tunable_vector(
    parameter: Tensor, original: Tensor, stored: Tensor, tensor: str, name: str
) -> TunableVector:
    """Return a parameter's vector as the quantized file has it, without the converter's constant.

    original, stored: the 16-bit and the quantized file's vector, (n,) float32; tensor, name: what
    messages call tensor and parameter.
    Raises Infeasible where the converter did more than add one constant.
    """
    added = original - parameter.float()
    if float(added.max() - added.min()) > 1e-3:
        raise Infeasible("unsupported", f"polishing: {tensor} holds other values than {name}")
    return TunableVector((stored - added).requires_grad_(), added)
