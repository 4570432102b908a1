"""The curvature of every linear layer: X'X over calibration text and a share of random tokens.

X (tokens, columns) are the layer's inputs. Compensated rounding (sintra.stages.rounding) works in
this metric. Its diagonal over the text is the importance matrix by which llama.cpp's quantizers
weigh errors: one pass serves both. Layers that read the same input (query, key and value; gate and
up) share one matrix; every expert has its own. The model is run block by block, so that one block
and its matrices are in memory; a killed run goes on at its block. The tokens are llama.cpp's own,
from the converted model's vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.tensor_names import expert_names, gguf_names
from sintra.formats.runtime.blocks import BlockModel, OuterLayers, block_influence, run_block
from sintra.formats.runtime.calibration_text import CalibrationWindows, calibration_windows
from sintra.formats.runtime.functional_block import one_window
from sintra.formats.runtime.state_files import StateFiles
from sintra.stages.rounding.hessian import (
    CurvatureJson,
    CurvatureProgress,
    ExpertTensors,
    HessianCollector,
    as_list,
    diagonal_path,
    hessian_path,
    matching_banks,
    matching_layers,
)
from sintra.stages.rounding.tensors import read_tensors
from sintra.store.files import link_or_copy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from sintra.formats.gguf.mapped import MappedTensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

T = TypeVar("T")


def run(context: Context) -> None:
    """Write NNN.npy, curvature.json (CurvatureJson) and importance.npz.

    NNN.npy: a layer's X'X, (columns, columns) float32, mean over tokens. importance.npz: GGUF
    tensor name -> mean squares of the inputs over the text, float32 of the row's length.
    Raises Infeasible where no layer can be found in the GGUF.
    """
    torch.set_num_threads(context.threads)
    path = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(path)
    windows = calibration_windows(context, path, layout)
    model = BlockModel(context.inputs["model"])
    layers = gguf_names(model.net, layout)
    if not layers:
        raise Infeasible(
            "unsupported",
            f"no linear layer of a {layout['architecture']} could be mapped to its GGUF tensor",
        )
    if model.whole:
        context.say("the checkpoint's names aren't the modules': the whole model is loaded at once")
    context.keep.mkdir(parents=True, exist_ok=True)
    names = MeasuredTensors(layers, expert_names(model.net), read_tensors(path))
    progress = CurvaturePass(model, names, windows, context.keep).run(context.say)
    if layout["shape"]["tied"] and "output.weight" in progress.tensors:
        progress.tensors["token_embd.weight"] = progress.tensors.pop("output.weight")
    publish(progress, context)


@dataclass(frozen=True)
class MeasuredTensors:
    """What is measured, and the GGUF's tensors."""

    layers: Mapping[str, str]  # linear layer -> GGUF tensor
    banks: Mapping[str, ExpertTensors]  # bank of experts -> GGUF tensors
    tensors: Mapping[str, MappedTensor]  # GGUF tensor name -> tensor


class CurvaturePass:
    """One pass over the model, block by block; a new pass goes on where a killed one stopped."""

    model: BlockModel
    """The checkpoint, whose blocks are loaded one at a time."""
    names: MeasuredTensors
    """What is measured."""
    windows: CalibrationWindows
    """What the model is run on."""
    folder: Path
    """Where matrices, hidden states and the progress are kept."""
    progress: CurvatureProgress
    """What has been measured so far."""
    passing: OuterLayers
    """Runs the parts of the model around the blocks."""
    states: StateFiles
    """The hidden states before each block."""

    def __init__(
        self, model: BlockModel, names: MeasuredTensors, windows: CalibrationWindows, folder: Path
    ) -> None:
        self.model, self.names, self.windows, self.folder = model, names, windows, folder
        self.progress = CurvatureProgress.load(folder)
        self.passing = OuterLayers(model)
        # This also records what else the blocks are called with.
        width = self.passing.first_input(as_batch(windows.tokens[0])).shape[-1]
        self.states = StateFiles(folder, "hidden", (*windows.tokens.shape, width))

    def run(self, say: Callable[[str], None]) -> CurvatureProgress:
        """Measure all blocks, then the output head. say: gets a line of progress a block."""
        start, count, resumed = time.monotonic(), len(self.model.blocks), self.progress.blocks
        if resumed == 0:
            self.embed()
        for number in range(resumed, count):
            self.measure_block(number)
            pace = (time.monotonic() - start) / (number + 1 - resumed)
            say(f"block {number + 1} of {count}, {pace * (count - number - 1):.0f} s left")
        if self.progress.blocks == count:
            self.measure_head()
        return self.progress

    def embed(self) -> None:
        """Write the input of the first block."""
        states = self.states.new(0)
        for i, window in enumerate(self.windows.tokens):
            states[i] = self.passing.first_input(as_batch(window))[0].float().numpy()
        states.flush()

    def measure_block(self, number: int) -> None:
        """Write a block's matrices and its output, and save the progress."""
        block = self.model.load(number)
        collector = self.collector(f"{self.model.prefix}.{number}.")
        before, after = self.states.read(number), self.states.new(number + 1)
        with collector.hooked(self.model.net):
            for i in range(len(self.windows)):
                collector.begin_window(i < self.windows.text_count)
                output = run_block(block, one_window(before, i), self.passing.calls[number])
                after[i] = output[0].numpy()
        after.flush()
        text = slice(self.windows.text_count)
        self.progress.influence.append(block_influence(before[text], after[text]))
        self.model.drop(number)
        self.save(collector)
        self.states.drop(number)

    def measure_head(self) -> None:
        """Write the matrix of the output head, and save the progress."""
        count = len(self.model.blocks)
        head = {n: t for n, t in self.names.layers.items() if n == self.model.head_name}
        hidden = self.states.read(count)
        matching = matching_layers(self.model, self.names.tensors, head, self.progress.unmapped)
        collector = HessianCollector({})
        for name in matching.values():
            for i, window in enumerate(self.windows.tokens):
                collector.begin_window(i < self.windows.text_count)
                x = self.passing.head_input(as_batch(window), one_window(hidden, i))
                collector.add_input(name, x)
        self.save(collector)

    def collector(self, prefix: str) -> HessianCollector:
        """Return what sums the Hessians of the block whose modules begin with `prefix`."""
        names, unmapped = self.names, self.progress.unmapped
        layers, banks = beginning(names.layers, prefix), beginning(names.banks, prefix)
        return HessianCollector(
            matching_layers(self.model, names.tensors, layers, unmapped),
            matching_banks(self.model, names.tensors, banks, unmapped),
        )

    def save(self, collector: HessianCollector) -> None:
        """Write a block's matrices and count the block as done."""
        collector.write(self.progress, self.folder)
        self.progress.blocks += 1
        self.progress.save(self.folder)


def as_batch(window: NDArray[np.int32]) -> Tensor:
    """Return one window of token ids as a batch, (1, tokens) int64."""
    return torch.from_numpy(np.asarray(window)).long()[None]


def beginning(names: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return the entries whose key begins with a prefix."""
    return {name: tensor for name, tensor in names.items() if name.startswith(prefix)}


def publish(progress: CurvatureProgress, context: Context) -> None:
    """Write the artifact from what the pass has kept."""
    diagonals = []
    for number in range(len(progress.token_counts)):
        link_or_copy(hessian_path(context.keep, number), hessian_path(context.out, number))
        diagonals.append(np.load(diagonal_path(context.keep, number)))
    importance = {
        name: np.concatenate([diagonals[number] for number in as_list(numbers)])
        for name, numbers in progress.tensors.items()
    }
    np.savez(context.out / "importance.npz", **importance)  # type: ignore[arg-type]
    curvature: CurvatureJson = {
        "tensors": progress.tensors,
        "influence": progress.influence,
        "tokens": max(progress.token_counts),
        "unmapped": progress.unmapped,
    }
    context.write_json("curvature.json", curvature)


STAGE = Stage(
    "curvature",
    3,
    run,
    tools=("torch", "transformers"),
    files=("importance.npz", "curvature.json"),
    title="Calibrate",
)
