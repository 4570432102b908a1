"""A block of a transformers model that is run with weights of the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Weights = dict[str, Tensor]  # parameter of the block -> its value
    States = NDArray[np.float32]  # hidden states (windows, tokens, width), a memory map
    LayerInputs = list[tuple[str, Tensor]]  # (layer, its input), in the order of running
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


class InputReached(Exception):
    """The layer's input is there; the rest of the block isn't run."""


class FunctionalBlock:
    """A block and what else it is called with beside the hidden states."""

    def __init__(
        self, module: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> None:
        """Take a module and its other arguments, positional and by name."""
        self.module, (self.positional, self.named) = module, arguments

    def output(self, weights: Weights, hidden: Tensor) -> Tensor:
        """Run the block; the output has gradients where the weights have any.

        hidden, output: (windows, tokens, width).
        """
        inputs = (hidden, *self.positional)
        out = torch.func.functional_call(self.module, weights, inputs, self.named)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    def advance(self, weights: Weights, states: States) -> None:
        """Replace hidden states by the block's output, window by window."""
        with torch.no_grad():
            for i in range(len(states)):
                states[i] = self.output(weights, one_window(states, i))[0].float().numpy()

    def run_recorded(
        self, weights: Weights, layers: Sequence[str], hidden: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs of layers for one window, (1, tokens, columns), and the block's output.

        hidden: (1, tokens, width).
        """
        with torch.no_grad(), self._recorded_inputs(layers, stop=False) as inputs:
            output = self.output(weights, hidden)
        return dict(inputs), output

    def layer_input(self, weights: Weights, layer: str, hidden: Tensor) -> Tensor:
        """Return a layer's input for one window, (1, tokens, columns)."""
        with (
            torch.no_grad(),
            self._recorded_inputs([layer], stop=True) as inputs,
            contextlib.suppress(InputReached),
        ):
            self.output(weights, hidden)
        x: Tensor = inputs[0][1]
        return x

    def layers_by_input(
        self, weights: Weights, layers: Sequence[str], hidden: Tensor
    ) -> list[list[str]]:
        """Return the layers in the order of running, those that get the same tensor together.

        A layer that is run twice stands there twice. hidden: one window, (1, tokens, width).
        """
        with torch.no_grad(), self._recorded_inputs(layers, stop=False) as inputs:
            self.output(weights, hidden)
        groups: list[tuple[Tensor, list[str]]] = []
        for layer, x in inputs:
            if groups and groups[-1][0] is x:
                groups[-1][1].append(layer)
            else:
                groups.append((x, [layer]))
        return [names for _, names in groups]

    @contextlib.contextmanager
    def _recorded_inputs(self, layers: Sequence[str], stop: bool) -> Iterator[LayerInputs]:
        """Yield a list that fills with the layers' inputs while the block is run.

        stop: whether the first of them ends the run, by InputReached.
        """
        inputs: LayerInputs = []

        def recorder(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                inputs.append((layer, args[0]))
                if stop:
                    raise InputReached

            return record

        hooks = [
            self.module.get_submodule(layer).register_forward_pre_hook(recorder(layer))
            for layer in layers
        ]
        try:
            yield inputs
        finally:
            for hook in hooks:
                hook.remove()


def one_window(states: States, number: int) -> Tensor:
    """Return a copy of one window's hidden states, (1, tokens, width)."""
    return torch.from_numpy(np.array(states[number : number + 1]))
