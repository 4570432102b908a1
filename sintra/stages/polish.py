"""A finished variant tuned end to end: the same layout, other payload.

Norm weights, biases and the scales of the blocks are moved by gradient descent on the KL divergence
to the 16-bit model over the calibration text (sintra.stages.rounding.polish). The whole model is trained
in float32, so it must be small for the machine: `need` is what it takes. A killed run starts again
and makes the same file (on as many threads).
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.remote_code import allow_in_process

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# float32 each: the checkpoint, levels, their products kept for backward, the dequantized weights.
COPIES, BATCH = 5, 1


def run(context: Context) -> None:
    """inputs: gguf (a variant), source (the 16-bit GGUF that it was made from), model (the
    checkpoint), text.

    Write model.gguf and layout.json; layout["polish"]: the held-out KLD before and after in nats,
    the steps, the step kept.
    """
    from sintra.formats.gguf.layout import read_layout
    from sintra.formats.runtime.llama_cpp import LlamaModel

    torch.set_num_threads(context.threads)
    source, target = context.inputs["source"] / "model.gguf", context.out / "model.gguf"
    layout = json.loads((context.inputs["gguf"] / "layout.json").read_text())
    size = min(context.params["context"], layout["context"] or context.params["context"])
    affordable(layout["shape"], size)
    tokenizer = LlamaModel(source, size, context.threads, vocab_only=True)
    windows = tokenizer.windows(
        (context.inputs["text"] / "text.txt").read_text(), context.params["tokens"]
    )
    tokenizer.close()
    shutil.copyfile(context.inputs["gguf"] / "model.gguf", target)
    layout["polish"] = polished(context, layout, windows)
    made = read_layout(target)
    if made["tensors"] != layout["tensors"]:
        raise RuntimeError("polishing changed the layout")
    context.write_json("layout.json", layout)


def polished(context: Context, layout: dict[str, Any], windows: Any) -> dict[str, Any]:
    """Tune and write the payload; nothing is written where held-out text says that it got no
    better.
    """
    trust = allow_in_process(context.inputs["model"])
    import transformers

    from sintra.stages.rounding.polish import Settings, Teacher, tune
    from sintra.stages.rounding.student import Student

    source, variant = (context.inputs[role] / "model.gguf" for role in ("source", "gguf"))
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(
        context.inputs["model"], dtype=torch.float32, trust_remote_code=trust, use_safetensors=True
    )
    net.train(False)
    student = Student(net, source, variant, layout)
    teacher = Teacher(net, torch.from_numpy(windows).long(), context.keep)
    settings = Settings(epochs=context.params["epochs"], seed=context.params["seed"], batch=BATCH)
    found = tune(student, teacher, settings, context.say)
    if found.kept:
        student.write(context.out / "model.gguf")
    else:
        context.say("no step did better on held-out text: the file is left as it was")
    return {"held_out": [found.before, found.after], "steps": found.steps, "kept": found.kept}


def need(shape: dict[str, Any], size: int) -> int:
    """Bytes that polishing takes at its peak: COPIES of the weights, the logits (four copies in
    float32) of a batch of windows of `size` tokens, and some 40 values a token, block and unit of
    width for what backward needs.

    By this a model of 1 B parameters (16 blocks, width 2048, vocabulary 128 k) takes 24 GB, one of
    8 B 171 GB.
    """
    tokens = BATCH * size
    activations = 40 * shape["layers"] * shape["width"] + 4 * shape["vocabulary"]
    return 4 * (COPIES * int(shape["parameters"]) + tokens * int(activations))


def affordable(shape: dict[str, Any], size: int) -> None:
    """Raises Infeasible where the machine has less memory than it takes."""
    has, wants = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), need(shape, size)
    if wants > has:
        text = (
            f"polishing trains the whole model in float32: {wants / 1e9:.0f} GB, this machine has "
            f"{has / 1e9:.0f} GB"
        )
        raise Infeasible("out_of_memory", f"{text}; set planner.polish=false")


STAGE = Stage("polish", 1, run, tools=("torch", "transformers"))
