"""Rounding block after block, each layer towards what the 16-bit model's layer gives, from the
inputs that it will really have.

A layer behind quantized ones sees other inputs than the 16-bit model's layer: X' instead of X. What
is to be kept is W X, so the weights to round are not W but those that come nearest to it from X':

    W (I + C inv(H)),  H = X'X'^T,  C = (X - X')X'^T,  both summed over tokens, H damped

(GPTAQ's asymmetric calibration, arXiv 2504.02692, in closed form). They are rounded as ever
(sintra.stages.rounding.compensate) onto the grid and from the scales that the file has, in the metric H.
So errors of earlier layers are made good by later ones instead of adding up. Inside a block the
layers go in the order in which they are run, those of one input together. A block that is rounded
can then learn (sintra.stages.rounding.learned).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.runtime.blocks import BlockModel, OuterLayers
from sintra.stages.rounding.compensate import Options, compensate
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.learned import Block, Learned, Settings, learn
from sintra.stages.rounding.student import row_order, values

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

DAMPING = 0.01
HALVES = {"F16": "float16", "BF16": "bfloat16"}


class Reached(Exception):
    """The layer's input is known; the rest of the block isn't run."""


class Rounder:
    """tensors: the variant's, writable, and exact: the 16-bit file's, by GGUF name; names:
    parameter -> GGUF name; steps: for how many each block learns. rounded: the tensors; learned: of
    each block, the held-out error before and after.
    """

    def __init__(
        self,
        model: BlockModel,
        names: dict[str, str],
        tensors: dict[str, Any],
        exact: dict[str, Any],
        say: Callable[[str], None],
        steps: int = 0,
    ) -> None:
        self.model, self.tensors, self.exact, self.say, self.steps = (
            model,
            tensors,
            exact,
            say,
            steps,
        )
        matrices = {n for n, m in model.net.named_modules() if isinstance(m, torch.nn.Linear)}
        own = {n.removesuffix(".weight"): t for n, t in names.items()}
        self.names = {n: t for n, t in own.items() if n in matrices}
        self.vectors = {
            n: t for n, t in names.items() if t in tensors and len(tensors[t].shape) == 1
        }
        self.parts = OuterLayers(model)
        self.rounded: list[str] = []
        self.learned: list[tuple[float, float]] = []

    def run(self, windows: Tensor, theirs: Any, ours: Any) -> list[str]:
        """Round everything that has a grid; the names of the tensors. windows: (n, tokens) ids;
        theirs, ours: room for the hidden states of both models, (n, tokens, width) float32,
        overwritten block by block.
        """
        start, count = time.monotonic(), len(self.model.blocks)
        self.embed(windows, theirs, ours)
        for number in range(count):
            self.block(number, theirs, ours)
            left = (time.monotonic() - start) / (number + 1) * (count - number - 1)
            self.say(f"block {number + 1} of {count}, {left:.0f} s left")
        self.head(windows, theirs, ours)
        return self.rounded

    def embed(self, windows: Tensor, theirs: Any, ours: Any) -> None:
        """What goes into the first block, with the exact and with the quantized embedding."""
        table: nn.Parameter = self.model.net.get_input_embeddings().weight
        quantized, kept = values(self.tensors["token_embd.weight"]), table.data
        if quantized.shape != kept.shape:
            raise Infeasible(
                "unsupported", "rounding in sequence: the embedding isn't of the checkpoint's shape"
            )
        for room, rows in ((ours, quantized), (theirs, None)):
            if rows is not None:
                table.data = rows.to(kept.dtype)
            for i, window in enumerate(windows):
                room[i] = self.parts.first_input(window[None])[0].float().numpy()
            table.data = kept

    def block(self, number: int, theirs: Any, ours: Any) -> None:
        """Round one block's layers, and bring both models' hidden states behind it."""
        block = self.model.load(number)
        own = {n: p.detach() for n, p in block.named_parameters()}
        start = f"{self.model.prefix}.{number}."
        layers = {
            n.removeprefix(start): t
            for n, t in self.names.items()
            if n.startswith(start) and t in self.tensors
        }
        orders = {
            layer: self.tied(own[f"{layer}.weight"], tensor) for layer, tensor in layers.items()
        }
        quantized = own | {f"{n}.weight": self.stored(t, orders[n]) for n, t in layers.items()}
        arguments = self.parts.calls[number]
        for group in groups(
            block, layers, quantized, torch.from_numpy(np.array(ours[:1])), arguments
        ):
            sums = Sums()
            for i in range(len(ours)):
                x, y = (torch.from_numpy(np.array(room[i : i + 1])) for room in (theirs, ours))
                sums.add(
                    reach(block, own, group[0], x, arguments),
                    reach(block, quantized, group[0], y, arguments),
                )
            for layer in group:
                quantized[f"{layer}.weight"] = self.round(layers[layer], sums, orders[layer])
        pass_on(block, own, theirs, arguments)
        if self.steps:
            quantized = self.learn(
                block, start, layers, orders, own | quantized, theirs, ours, arguments
            )
        pass_on(block, quantized, ours, arguments)
        self.model.drop(number)

    def learn(
        self,
        block: nn.Module,
        start: str,
        layers: dict[str, str],
        orders: dict[str, Tensor | None],
        weights: dict[str, Tensor],
        goal: Any,
        ours: Any,
        arguments: tuple[Any, Any],
    ) -> dict[str, Tensor]:
        """Learn a block's rounding and write it into the file; the block's weights."""
        matrices = {}
        for layer, name in layers.items():
            if (grid := GRIDS.get(self.tensors[name].tensor_type.name)) is not None:
                blocks = np.array(self.tensors[name].data).reshape(-1, grid.size)
                matrices[f"{layer}.weight"] = (
                    Learned(blocks, grid, tuple(weights[f"{layer}.weight"].shape)),
                    orders[layer],
                )
        vectors = {n.removeprefix(start): t for n, t in self.vectors.items() if n.startswith(start)}
        same = {
            n: weights[n]
            for n, t in vectors.items()
            if torch.equal(weights[n].float(), values(self.tensors[t]))
        }
        parts = Block(
            matrices,
            same,
            {n: w for n, w in weights.items() if n not in matrices and n not in same},
        )
        found = learn(
            parts, lambda w, x: forward(block, w, x, arguments), ours, goal, Settings(self.steps)
        )
        self.learned.append(found)
        self.say(
            f"learned rounding: {found[1] / max(found[0], 1e-30):.3f} of the block's error is "
            "left on held-out text"
        )
        for name, (matrix, _) in matrices.items():
            data = self.tensors[layers[name.removesuffix(".weight")]].data
            data[:] = matrix.pack().reshape(data.shape)
        with torch.no_grad():
            made = {n: w.detach() for n, w in parts.weights().items()}
        for name in same:
            data = self.tensors[vectors[name]].data
            data[:] = made[name].numpy().reshape(data.shape)
        return made

    def head(self, windows: Tensor, theirs: Any, ours: Any) -> None:
        """The output, unless it is the embedding too."""
        if "output.weight" not in self.tensors:
            return
        sums = Sums()
        for i, window in enumerate(windows):
            x, y = (
                self.parts.head_input(window[None], torch.from_numpy(np.array(room[i : i + 1])))
                for room in (theirs, ours)
            )
            sums.add(x, y)
        self.round("output.weight", sums, None)

    def tied(self, own: Tensor, name: str) -> Tensor | None:
        """Which row of the tensor each of the layer's rows is. Raises Infeasible where they aren't
        the same rows.
        """
        exact = self.exact[name]
        kept: torch.dtype = getattr(torch, HALVES.get(exact.tensor_type.name, "float32"))
        return row_order(own.to(kept).float(), values(exact), name, name)

    def stored(self, name: str, order: Tensor | None) -> Tensor:
        """The weights that the file has."""
        found = values(self.tensors[name])
        return found if order is None else found[order]

    def round(self, name: str, sums: Sums, order: Tensor | None) -> Tensor:
        """Round a tensor in the file; its weights."""
        tensor = self.tensors[name]
        grid = GRIDS.get(tensor.tensor_type.name)
        if grid is not None:
            wanted = sums.target(values(self.exact[name]))
            blocks = np.array(tensor.data).reshape(-1, grid.size)
            made, _, _ = compensate(
                wanted.numpy(), [blocks], grid, sums.h.numpy(), Options(damping=DAMPING)
            )
            tensor.data[:] = made.reshape(tensor.data.shape)
            self.rounded.append(name)
        return self.stored(name, order)


class Sums:
    """H and C of one input, summed over tokens: (columns, columns) float32."""

    def __init__(self) -> None:
        self.h = self.c = torch.zeros(())

    def add(self, theirs: Tensor, ours: Tensor) -> None:
        """One window's inputs, (1, tokens, columns) each."""
        x, y = theirs[0].float(), ours[0].float()
        self.h = self.h + y.T @ y
        self.c = self.c + (x - y).T @ y

    def target(self, w: Tensor) -> Tensor:
        """W (I + C inv(H)) for weights (rows, columns)."""
        mean = float(self.h.diagonal().mean())
        if mean <= 0:
            return w
        damped = self.h.double() + DAMPING * mean * torch.eye(len(self.h), dtype=torch.float64)
        move = torch.linalg.solve(damped, self.c.double().T).T
        wanted: Tensor = w + (w.double() @ move).float()
        return wanted


def forward(
    block: nn.Module, weights: dict[str, Tensor], hidden: Tensor, arguments: tuple[Any, Any]
) -> Tensor:
    """A block's output with these weights, with gradients where they have any."""
    out = torch.func.functional_call(block, weights, (hidden, *arguments[0]), arguments[1])
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def pass_on(
    block: nn.Module, weights: dict[str, Tensor], room: Any, arguments: tuple[Any, Any]
) -> None:
    """Bring hidden states, (windows, tokens, width), behind a block."""
    with torch.no_grad():
        for i in range(len(room)):
            out = forward(block, weights, torch.from_numpy(np.array(room[i : i + 1])), arguments)
            room[i] = out[0].float().numpy()


def reach(
    block: nn.Module,
    weights: dict[str, Tensor],
    layer: str,
    hidden: Tensor,
    arguments: tuple[Any, Any],
) -> Tensor:
    """A layer's input, (1, tokens, columns)."""
    with torch.no_grad(), watching(block, [layer]) as found, contextlib.suppress(Reached):
        forward(block, weights, hidden, arguments)
    x: Tensor = found[0][1]
    return x


def groups(
    block: nn.Module,
    layers: dict[str, str],
    weights: dict[str, Tensor],
    hidden: Tensor,
    arguments: tuple[Any, Any],
) -> list[list[str]]:
    """The layers in the order in which they are run, those that are given the same tensor together."""
    with torch.no_grad(), watching(block, list(layers), stop=False) as found:
        forward(block, weights, hidden, arguments)
    made: list[tuple[Tensor, list[str]]] = []
    for layer, x in found:
        if made and made[-1][0] is x:
            made[-1][1].append(layer)
        else:
            made.append((x, [layer]))
    if len({n for n, _ in found}) < len(found):
        raise Infeasible(
            "unsupported", "rounding in sequence: a layer of a block is run more than once"
        )
    return [names for _, names in made]


@contextlib.contextmanager
def watching(
    block: nn.Module, layers: list[str], stop: bool = True
) -> Iterator[list[tuple[str, Tensor]]]:
    """A list that is filled with (layer, its input) while the block is run; stop: no further than
    to the first.
    """
    found: list[tuple[str, Tensor]] = []

    def hook(layer: str) -> Any:
        def seen(_: Any, args: tuple[Tensor, ...]) -> None:
            found.append((layer, args[0]))
            if stop:
                raise Reached

        return seen

    hooks = [block.get_submodule(n).register_forward_pre_hook(hook(n)) for n in layers]
    try:
        yield found
    finally:
        for h in hooks:
            h.remove()
