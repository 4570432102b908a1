"""A finished variant rounded anew, block after block, from the inputs that its layers will really
have: the same layout, other scales and integers (sintra.stages.rounding.sequential), and, where there is
time for it, each block's rounding learned (sintra.stages.rounding.learned).

The model is run block by block, its weights read when a block's turn comes, so that two blocks'
weights, one layer's matrices and, on disk, two models' hidden states are what it takes. A killed
run starts again and makes the same file (on as many threads).
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


def run(context: Context) -> None:
    """inputs: gguf (a variant with all its blocks), source (the 16-bit GGUF), model (the
    checkpoint), text (calibration).

    Write model.gguf and layout.json; layout["refined"]: the tensors that were rounded anew;
    layout["learned"]: of each block, the held-out error before and after learning.
    """
    from sintra.formats.gguf.header import open_gguf
    from sintra.formats.gguf.layout import read_layout
    from sintra.formats.gguf.tensor_names import expert_names
    from sintra.formats.runtime.blocks import BlockModel
    from sintra.formats.runtime.llama_cpp import LlamaModel, noise_windows
    from sintra.stages.rounding.effort import STEPS, TOKENS, given
    from sintra.stages.rounding.sequential import Rounder
    from sintra.stages.rounding.student import gguf_tensors, writable

    torch.set_num_threads(context.threads)
    source, target = context.inputs["source"] / "model.gguf", context.out / "model.gguf"
    layout = json.loads((context.inputs["gguf"] / "layout.json").read_text())
    size = min(context.params["context"], layout["context"] or context.params["context"])
    tokenizer = LlamaModel(source, size, context.threads, vocab_only=True)
    tokens = given(context.params["tokens"], TOKENS, layout["shape"]["parameters"])
    windows = tokenizer.windows((context.inputs["text"] / "text.txt").read_text(), tokens)
    everything = np.concatenate(
        [
            windows,
            noise_windows(len(windows), size, context.params["random"], tokenizer.normal_tokens()),
        ]
    )
    everything = everything[
        np.random.default_rng(0).permutation(len(everything))
    ]  # every kind of text among the held-out
    tokenizer.close()
    model = BlockModel(context.inputs["model"])
    if expert_names(model.net):
        raise Infeasible("unsupported", "rounding in sequence: banks of experts aren't taken apart")
    shutil.copyfile(context.inputs["gguf"] / "model.gguf", target)
    context.keep.mkdir(parents=True, exist_ok=True)
    shape = (*everything.shape, layout["shape"]["width"])
    rooms = [
        np.lib.format.open_memmap(context.keep / f"{n}.npy", "w+", np.float32, shape)
        for n in ("theirs", "ours")
    ]
    exact = {t.name: t for t in open_gguf(source).tensors}
    with writable(target) as tensors:
        count = given(context.params["steps"], STEPS, layout["shape"]["parameters"])
        rounder = Rounder(
            model, gguf_tensors(model.net, layout), tensors, exact, context.say, count
        )
        layout["refined"] = rounder.run(torch.from_numpy(everything).long(), *rooms)
        layout["learned"] = rounder.learned
    if read_layout(target)["tensors"] != layout["tensors"]:
        raise RuntimeError("rounding in sequence changed the layout")
    context.write_json("layout.json", layout)


STAGE = Stage("refine", 2, run, tools=("torch", "transformers"))
