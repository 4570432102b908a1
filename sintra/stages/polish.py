"""Polishing: a finished variant tuned end to end, in the same layout.

Norm weights, biases and the scales of the blocks are moved by gradient descent on the KL divergence
to the 16-bit model over the calibration text (sintra.stages.rounding.polish). The whole model is
trained in float32, so it must be small for the machine: `peak_bytes` is what it takes. A killed run
starts again and makes the same file (on as many threads).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.remote_code import allow_in_process
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.calibration_text import calibration_windows, window_size
from sintra.stages.rounding.polish import PolishSettings, Teacher, polish_student
from sintra.stages.rounding.student import Student

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    torch = lazy.module("torch")

# float32 each: the checkpoint, levels, their products kept for backward, the dequantized weights.
COPIES = 5
BATCH = 1  # windows of a step


class PolishJson(TypedDict):
    """The value "polish" of a layout.json."""

    held_out: list[float]  # KLD over held-out text before and after, nats
    steps: int  # steps that were taken
    kept: int  # the step whose state is kept; 0: that of the start


def run(context: Context) -> None:
    """Write model.gguf and layout.json; layout["polish"] is a PolishJson.

    inputs: gguf (a variant), source (the 16-bit GGUF that it was made from), model (the
    checkpoint), text.
    Raises Infeasible where memory is short, and where the checkpoint doesn't fit the file.
    """
    torch.set_num_threads(context.threads)
    source, target = context.inputs["source"] / "model.gguf", context.out / "model.gguf"
    layout = json.loads((context.inputs["gguf"] / "layout.json").read_text())
    check_memory(layout["shape"], window_size(context, layout))
    windows = calibration_windows(context, source, layout).tokens
    shutil.copyfile(context.inputs["gguf"] / "model.gguf", target)
    layout["polish"] = polish_target(context, layout, windows)
    if read_layout(target)["tensors"] != layout["tensors"]:
        raise RuntimeError("polishing changed the layout")
    context.write_json("layout.json", layout)


def polish_target(
    context: Context, layout: Mapping[str, Any], windows: NDArray[np.int32]
) -> PolishJson:
    """Train the variant and write it, unless held-out text says that it got no better.

    windows: token ids, (windows, tokens).
    """
    trust = allow_in_process(
        context.inputs["model"]
    )  # sets variables that transformers reads on import
    import transformers  # loads torch, which a run with nothing to do must not

    source, variant = (context.inputs[role] / "model.gguf" for role in ("source", "gguf"))
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(
        context.inputs["model"], dtype=torch.float32, trust_remote_code=trust, use_safetensors=True
    )
    net.train(False)
    student = Student(net, source, variant, layout)
    teacher = Teacher(net, torch.from_numpy(windows).long(), context.keep)
    settings = PolishSettings(
        epochs=context.params["epochs"], seed=context.params["seed"], batch=BATCH
    )
    outcome = polish_student(student, teacher, settings, context.say)
    if outcome.best_step:
        student.write(context.out / "model.gguf")
    else:
        context.say("no step did better on held-out text: the file is left as it was")
    return {
        "held_out": [outcome.before, outcome.after],
        "steps": outcome.steps,
        "kept": outcome.best_step,
    }


def peak_bytes(shape: Mapping[str, Any], size: int) -> int:
    """Return the bytes that polishing takes at its peak. size: tokens of a window.

    They are COPIES of the weights, the logits (four copies in float32) of a batch of windows, and
    for what backward needs some 40 values for each token, block and unit of width. By this a model
    of 1 B parameters (16 blocks, width 2048, vocabulary 128 k) takes 24 GB, one of 8 B 171 GB.
    """
    tokens = BATCH * size
    activations = 40 * shape["layers"] * shape["width"] + 4 * shape["vocabulary"]
    return 4 * (COPIES * int(shape["parameters"]) + tokens * int(activations))


def check_memory(shape: Mapping[str, Any], size: int) -> None:
    """Raise Infeasible where polishing takes more memory than the machine has.

    size: tokens of a window.
    """
    present, need = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        peak_bytes(shape, size),
    )
    if need > present:
        text = (
            f"polishing trains the whole model in float32: {need / 1e9:.0f} GB, this machine has "
            f"{present / 1e9:.0f} GB"
        )
        raise Infeasible("out_of_memory", f"{text}; set planner.polish=false")


STAGE = Stage(
    "polish",
    1,
    run,
    tools=("torch", "transformers"),
    files=("model.gguf", "layout.json"),
    title="Tune scales",
)
