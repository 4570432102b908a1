"""Rounding in sequence: block after block, from the inputs that each layer will really have.

The aim of each layer is what the 16-bit model's layer gives. A layer behind quantized ones has
other inputs than the 16-bit model's layer: X' instead of X. What is to be kept is W X. So the
weights to round are not W but those that come nearest to it from X':

    W (I + C inv(H)),  H = X'X'^T,  C = (X - X')X'^T,  both summed over tokens, H damped

(GPTAQ's asymmetric calibration, arXiv 2504.02692, in closed form). They are rounded by
sintra.stages.rounding.compensate onto the grid and from the scales that the file has, in the metric
H. So later layers make good the errors of earlier ones instead of adding to them. Inside a block
the layers go in the order in which they are run, those of one input together. A block that is
rounded can then learn (sintra.stages.rounding.learned).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.runtime.blocks import BlockModel, OuterLayers
from sintra.formats.runtime.functional_block import FunctionalBlock, one_window
from sintra.stages.rounding.compensate import compensate
from sintra.stages.rounding.damped import CompensationOptions, DampedHessian
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.learned import (
    HeldOutError,
    LearnedBlock,
    LearningSettings,
    learn_block,
)
from sintra.stages.rounding.learned_matrix import LearnedMatrix
from sintra.stages.rounding.tensors import dequantized, row_order, stored_dtype

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from sintra.formats.gguf.mapped import MappedTensor
    from sintra.formats.runtime.functional_block import States, Weights

    Tensors = Mapping[str, MappedTensor]  # GGUF name -> tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

KEPT_BYTES = 2**30  # of layers' inputs that are kept in memory
DAMPING = 0.01  # share of H's mean diagonal that is added to the diagonal
OPTIONS = CompensationOptions(damping=DAMPING)


@dataclass(frozen=True)
class HiddenStates:
    """Both models' hidden states between two blocks, overwritten block by block."""

    exact: States  # of the 16-bit model, (windows, tokens, width) float32, on disk
    quantized: States  # of the quantized model, (windows, tokens, width) float32, on disk


class BlockLayers:
    """The layers of one block that are in the GGUF, and the block's weights."""

    block: FunctionalBlock
    """The block itself."""
    exact: Weights
    """Parameter of the block -> 16-bit model's value."""
    layers: dict[str, str]
    """Layer -> GGUF tensor of its weight."""
    vectors: dict[str, str]
    """Parameter (norm or bias) -> GGUF tensor."""
    orders: dict[str, Tensor | None]
    """Layer -> the tensor's row that each of its rows is; None for the same order."""

    def __init__(
        self,
        block: FunctionalBlock,
        layers: dict[str, str],
        vectors: dict[str, str],
        tensors: Tensors,
    ) -> None:
        """Match the layers with the 16-bit file's `tensors`.

        Raises Infeasible where a tensor doesn't hold the layer's rows.
        """
        self.block, self.layers, self.vectors = block, layers, vectors
        self.exact = {n: p.detach() for n, p in block.module.named_parameters()}
        self.orders = {
            layer: layer_order(self.exact[f"{layer}.weight"], tensors[tensor])
            for layer, tensor in layers.items()
        }


class SequentialRounder:
    """Rounds a GGUF's matrices in place, block after block."""

    model: BlockModel
    """The checkpoint, whose blocks are loaded one at a time."""
    layers: dict[str, str]
    """Linear layer -> GGUF tensor of its weight."""
    vectors: dict[str, str]
    """Parameter (norm or bias) -> GGUF tensor."""
    tensors: Tensors
    """The variant's tensors, writable."""
    exact: Tensors
    """The 16-bit file's tensors."""
    steps: int
    """For how many steps each block learns; 0: it doesn't."""
    rounded: list[str]
    """GGUF names of the tensors that were rounded."""
    learned: list[HeldOutError]
    """Of each block that learned, the held-out error before and after."""

    def __init__(
        self,
        model: BlockModel,
        tensor_names: Mapping[str, str],
        tensors: Tensors,
        exact: Tensors,
        say: Callable[[str], None],
        steps: int = 0,
    ) -> None:
        """Take both files. tensor_names: parameter -> GGUF tensor; say: gets lines of progress."""
        self.model, self.tensors, self.exact = model, tensors, exact
        self.say, self.steps = say, steps
        linear = {n for n, m in model.net.named_modules() if isinstance(m, torch.nn.Linear)}
        modules = {n.removesuffix(".weight"): t for n, t in tensor_names.items()}
        self.layers = {n: t for n, t in modules.items() if n in linear}
        self.vectors = {
            n: t for n, t in tensor_names.items() if t in tensors and len(tensors[t].shape) == 1
        }
        self.passing = OuterLayers(model)
        self.rounded, self.learned = [], []

    def run(
        self,
        windows: Tensor,
        states: HiddenStates,
        first: int = 0,
        finished: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        """Round every matrix that has a grid, and return the names of the tensors.

        windows: token ids, (windows, tokens) int64; states: room for the hidden states; first: the
        block to begin at, whose inputs `states` hold unless it is 0; finished: called behind each
        block with the number of blocks that are done.
        Raises Infeasible where the checkpoint doesn't fit the file.
        """
        start, count = time.monotonic(), len(self.model.blocks)
        # This also records what else the blocks are called with.
        self.embed(windows, states if first == 0 else None)
        for number in range(first, count):
            self.round_block(number, states)
            finished(number + 1)
            left = (time.monotonic() - start) / (number + 1 - first) * (count - number - 1)
            self.say(f"block {number + 1} of {count}, {left:.0f} s left")
        self.round_head(windows, states)
        return self.rounded

    def embed(self, windows: Tensor, states: HiddenStates | None) -> None:
        """Write the input of the first block, with the exact and with the quantized embedding.

        states: None where later blocks' inputs are there already.
        """
        table: nn.Parameter = self.model.net.get_input_embeddings().weight
        quantized, exact = dequantized(self.tensors["token_embd.weight"]), table.data
        if quantized.shape != exact.shape:
            raise Infeasible(
                "unsupported", "rounding in sequence: the embedding isn't of the checkpoint's shape"
            )
        if states is None:
            self.passing.first_input(windows[:1])
            return
        for room, rows in ((states.quantized, quantized.to(exact.dtype)), (states.exact, exact)):
            table.data = rows
            for i, window in enumerate(windows):
                room[i] = self.passing.first_input(window[None])[0].float().numpy()
        table.data = exact

    def round_block(self, number: int, states: HiddenStates) -> None:
        """Round one block's layers, and bring both models' hidden states behind it."""
        parts = self.layers_of(number)
        block = parts.block
        quantized = parts.exact | {
            f"{layer}.weight": self.stored_weight(tensor, parts.orders[layer])
            for layer, tensor in parts.layers.items()
        }
        groups = layers_by_input(parts, quantized, states)
        exact = ExactInputs(parts, [group[0] for group in groups], states)
        for group in groups:
            moments = InputMoments()
            for i in range(len(states.quantized)):
                y = one_window(states.quantized, i)
                moments.add(exact.input(group[0], i), block.layer_input(quantized, group[0], y))
            for layer in group:
                quantized[f"{layer}.weight"] = self.round_tensor(
                    parts.layers[layer], moments, parts.orders[layer]
                )
        exact.advance()
        if self.steps:
            quantized = self.learn(parts, parts.exact | quantized, states)
        block.advance(quantized, states.quantized)
        self.model.drop(number)

    def layers_of(self, number: int) -> BlockLayers:
        """Load a block and return its layers."""
        module = self.model.load(number)
        start = f"{self.model.prefix}.{number}."
        layers = {n: t for n, t in below(self.layers, start).items() if t in self.tensors}
        block = FunctionalBlock(module, self.passing.calls[number])
        return BlockLayers(block, layers, below(self.vectors, start), self.exact)

    def learn(self, parts: BlockLayers, weights: Weights, states: HiddenStates) -> Weights:
        """Learn a block's rounding, write it into the file, and return the block's weights.

        weights: the rounded block's; states.exact: already behind the block, the goal.
        """
        learning = self.learned_block(parts, weights)
        settings = LearningSettings(self.steps)
        error = learn_block(learning, parts.block.output, states.quantized, states.exact, settings)
        self.learned.append(error)
        self.say(
            f"learned rounding: {error.after / max(error.before, 1e-30):.3f} of the block's error "
            "is left on held-out text"
        )
        for name, matrix in learning.matrices.items():
            data = self.tensors[parts.layers[name.removesuffix(".weight")]].data
            data[:] = matrix.pack().reshape(data.shape)
        with torch.no_grad():
            learned = {n: w.detach() for n, w in learning.weights().items()}
        for name in learning.vectors:
            data = self.tensors[parts.vectors[name]].data
            data[:] = learned[name].numpy().reshape(data.shape)
        return learned

    def learned_block(self, parts: BlockLayers, weights: Weights) -> LearnedBlock:
        """Return a block's parameters; matrices with a grid and unchanged vectors learn."""
        matrices = {}
        for layer, name in parts.layers.items():
            if (grid := GRIDS.get(self.tensors[name].tensor_type.name)) is not None:
                blocks = np.array(self.tensors[name].data).reshape(-1, grid.size)
                shape = tuple(weights[f"{layer}.weight"].shape)
                matrices[f"{layer}.weight"] = LearnedMatrix(
                    blocks, grid, shape, parts.orders[layer]
                )
        vectors = {
            n: weights[n]
            for n, tensor in parts.vectors.items()
            if torch.equal(weights[n].float(), dequantized(self.tensors[tensor]))
        }
        fixed = {n: w for n, w in weights.items() if n not in matrices and n not in vectors}
        return LearnedBlock(matrices, vectors, fixed)

    def round_head(self, windows: Tensor, states: HiddenStates) -> None:
        """Round the output matrix, unless it is the embedding too."""
        if "output.weight" not in self.tensors:
            return
        moments = InputMoments()
        for i, window in enumerate(windows):
            x, y = (
                self.passing.head_input(window[None], one_window(room, i))
                for room in (states.exact, states.quantized)
            )
            moments.add(x, y)
        self.round_tensor("output.weight", moments, None)

    def stored_weight(self, name: str, order: Tensor | None) -> Tensor:
        """Return a tensor of the variant in the layer's order of rows, (rows, columns) float32."""
        weight = dequantized(self.tensors[name])
        return weight if order is None else weight[order]

    def round_tensor(self, name: str, moments: InputMoments, order: Tensor | None) -> Tensor:
        """Round a tensor in the file if its type has a grid; return it in the layer's order."""
        tensor = self.tensors[name]
        grid = GRIDS.get(tensor.tensor_type.name)
        if grid is not None:
            target = moments.target(dequantized(self.exact[name]))
            blocks = np.array(tensor.data).reshape(-1, grid.size)
            rounded = compensate(target.numpy(), [blocks], grid, moments.damped(), OPTIONS)
            tensor.data[:] = rounded.blocks.reshape(tensor.data.shape)
            self.rounded.append(name)
        return self.stored_weight(name, order)


class ExactInputs:
    """The inputs of some layers of the exact block.

    They are kept where memory allows, so that the block is run once for all of them.
    """

    def __init__(self, parts: BlockLayers, layers: Sequence[str], states: HiddenStates) -> None:
        """Take a block and the layers, one for each input; `states` are before the block."""
        self.parts, self.states = parts, states
        windows, tokens, _ = states.exact.shape
        columns = sum(parts.exact[f"{layer}.weight"].shape[1] for layer in layers)
        self.kept: list[dict[str, Tensor]] = []
        if windows * tokens * columns * 4 <= KEPT_BYTES:
            for i in range(windows):
                hidden = one_window(states.exact, i)
                inputs, output = parts.block.run_recorded(parts.exact, layers, hidden)
                self.kept.append(inputs)
                states.exact[i] = output[0].float().numpy()

    def input(self, layer: str, number: int) -> Tensor:
        """Return a layer's input for one window, (1, tokens, columns)."""
        if self.kept:
            return self.kept[number][layer]
        hidden = one_window(self.states.exact, number)
        return self.parts.block.layer_input(self.parts.exact, layer, hidden)

    def advance(self) -> None:
        """Bring the states behind the block, unless they are there already."""
        if not self.kept:
            self.parts.block.advance(self.parts.exact, self.states.exact)
        self.kept.clear()


class InputMoments:
    """Second moments of one layer's input, summed over tokens: H and C of the formula above."""

    h: Tensor
    """H = X'X'^T, (columns, columns) float32."""
    c: Tensor
    """C = (X - X')X'^T, (columns, columns) float32."""

    def __init__(self) -> None:
        self.h = self.c = torch.zeros(())
        self.made: DampedHessian | None = None

    def add(self, exact: Tensor, quantized: Tensor) -> None:
        """Add one window's inputs in the exact and the quantized model, (1, tokens, columns)."""
        x, y = exact[0].float(), quantized[0].float()
        self.h = self.h + y.T @ y
        self.c = self.c + (x - y).T @ y

    def damped(self) -> DampedHessian:
        """Return H, damped and factored; made once, when all windows have been added."""
        if self.made is None:
            self.made = DampedHessian(self.h.numpy(), OPTIONS)
        return self.made

    def target(self, w: Tensor) -> Tensor:
        """Return W (I + C inv(H)) for weights (rows, columns); W itself where there is no input."""
        mean = float(self.h.diagonal().mean())
        if mean <= 0:
            return w
        damped = self.h.double() + DAMPING * mean * torch.eye(len(self.h), dtype=torch.float64)
        move = torch.linalg.solve(damped, self.c.double().T).T
        target: Tensor = w + (w.double() @ move).float()
        return target


def layers_by_input(parts: BlockLayers, weights: Weights, states: HiddenStates) -> list[list[str]]:
    """Return a block's layers in the order of running, those of one input together.

    Raises Infeasible where a layer is run more than once.
    """
    first = one_window(states.quantized, 0)
    groups = parts.block.layers_by_input(weights, list(parts.layers), first)
    layers = [layer for group in groups for layer in group]
    if len(set(layers)) < len(layers):
        raise Infeasible(
            "unsupported", "rounding in sequence: a layer of a block is run more than once"
        )
    return groups


def layer_order(weight: Tensor, tensor: MappedTensor) -> Tensor | None:
    """Return which row of the 16-bit tensor each of a layer's rows is; None for the same order.

    Raises Infeasible where they aren't the same rows.
    """
    rows = weight.to(stored_dtype(tensor)).float()
    return row_order(rows, dequantized(tensor), tensor.name, tensor.name)


def below(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return the entries whose key begins with a prefix, the prefix taken off."""
    return {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
