"""Refining: a finished variant rounded anew, block after block, in the same layout.

Each layer is rounded from the inputs that it will really have (sintra.stages.rounding.sequential).
Where there is time for it each block's rounding is then learned (sintra.stages.rounding.learned).
Scales and codes change, the types stay.

The model is run block by block, its weights read when a block's turn comes. So it takes two blocks'
weights, one layer's matrices, at most 1 GiB of layers' inputs and, on disk, two models' hidden
states. A killed run starts again and
makes the same file (on as many threads).
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.tensor_names import expert_names
from sintra.formats.runtime.blocks import BlockModel
from sintra.formats.runtime.calibration_text import calibration_windows
from sintra.stages.rounding.effort import learning_steps, refine_tokens
from sintra.stages.rounding.sequential import HiddenStates, SequentialRounder
from sintra.stages.rounding.tensors import parameter_tensors, read_tensors, writable_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


def run(context: Context) -> None:
    """Write model.gguf and layout.json.

    inputs: gguf (a variant with all its blocks), source (the 16-bit GGUF), model (the checkpoint),
    text (calibration). layout["refined"]: the tensors that were rounded anew; layout["learned"]: of
    each block that learned, the held-out error before and after.
    Raises Infeasible for banks of experts, and where the checkpoint doesn't fit the file.
    """
    torch.set_num_threads(context.threads)
    source, target = context.inputs["source"] / "model.gguf", context.out / "model.gguf"
    layout = json.loads((context.inputs["gguf"] / "layout.json").read_text())
    parameters = layout["shape"]["parameters"]
    token_count = refine_tokens(context.params["tokens"], parameters)
    windows = calibration_windows(context, source, layout, token_count).tokens
    # Shuffled, so that every kind of text is among the held-out windows.
    windows = windows[np.random.default_rng(0).permutation(len(windows))]
    model = BlockModel(context.inputs["model"])
    if expert_names(model.net):
        raise Infeasible("unsupported", "rounding in sequence: banks of experts aren't taken apart")
    shutil.copyfile(context.inputs["gguf"] / "model.gguf", target)
    states = new_states(context, (*windows.shape, layout["shape"]["width"]))
    with writable_tensors(target) as tensors:
        rounder = SequentialRounder(
            model,
            parameter_tensors(model.net, layout),
            tensors,
            read_tensors(source),
            context.say,
            learning_steps(context.params["steps"], parameters),
        )
        layout["refined"] = rounder.run(torch.from_numpy(windows).long(), states)
        layout["learned"] = rounder.learned
    if read_layout(target)["tensors"] != layout["tensors"]:
        raise RuntimeError("rounding in sequence changed the layout")
    context.write_json("layout.json", layout)


def new_states(context: Context, shape: tuple[int, ...]) -> HiddenStates:
    """Make room on disk for both models' hidden states, (windows, tokens, width) float32."""
    context.keep.mkdir(parents=True, exist_ok=True)
    exact, quantized = (
        np.lib.format.open_memmap(context.keep / f"{name}.npy", "w+", np.float32, shape)
        for name in ("exact", "quantized")
    )
    return HiddenStates(exact, quantized)


STAGE = Stage(
    "refine", 2, run, tools=("torch", "transformers"), files=("model.gguf", "layout.json")
)
