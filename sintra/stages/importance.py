"""The importance matrix: the mean square of every input of every linear layer over the calibration text.

Its diagonal of X'X is what llama.cpp's quantizers weigh errors by. The tokens are llama.cpp's own, from the converted
model's vocabulary, so that both see the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sintra.errors import Infeasible
from sintra.stage import Context, Stage


def run(context: Context) -> None:
    """Write importance.npz: GGUF tensor name -> float32 vector of the tensor's row length."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from sintra.layers import gguf_names
    from sintra.layout import read_layout
    from sintra.llama import Model

    torch.set_num_threads(context.threads)
    gguf = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(gguf)
    size = min(context.params["context"], layout["context"] or context.params["context"])
    tokenizer = Model(gguf, size, context.threads, vocab_only=True)
    windows = tokenizer.windows((context.inputs["text"] / "text.txt").read_text(), context.params["tokens"])
    tokenizer.close()
    model = AutoModelForCausalLM.from_pretrained(context.inputs["model"], dtype=torch.float32, trust_remote_code=False)
    names = gguf_names(model, layout)
    if not names:
        raise Infeasible("unsupported", f"no linear layer of a {layout['architecture']} could be mapped to its GGUF tensor")
    sums = collect(model.train(False), names, windows, context.say)
    if layout["shape"]["tied"] and "output.weight" in sums:
        sums["token_embd.weight"] = sums.pop("output.weight")
    np.savez(context.out / "importance.npz", **sums)


def collect(model: Any, names: dict[str, str], windows: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the text through the model and average the squares of each layer's inputs."""
    import torch

    sums: dict[str, Any] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(_: Any, args: tuple[Any, ...]) -> None:
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            square = x.double().square().sum(0)
            sums[name] = sums.get(name, 0) + square

        return add

    for name, module in model.named_modules():
        if name in names:
            module.register_forward_pre_hook(hook(names[name]))
    with torch.no_grad():
        for number, window in enumerate(windows):
            model(input_ids=torch.from_numpy(window).long()[None])
            say(f"window {number + 1} of {len(windows)}")
    return {name: (total / windows.size).float().numpy() for name, total in sums.items()}


STAGE = Stage("importance", 1, run, tools=("torch", "transformers"))
