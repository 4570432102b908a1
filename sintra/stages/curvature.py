"""The curvature of every linear layer's output error: X'X over the calibration text, X the layer's inputs.

Compensated rounding (sintra.rounding) works in this metric; its diagonal over the number of tokens is the importance matrix.
Layers that read the same input (query, key and value; gate and up) share one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sintra import lazy
from sintra.errors import Infeasible
from sintra.stage import Context, Stage

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def run(context: Context) -> None:
    """Write NNN.npy (columns, columns) float32, mean over tokens, and curvature.json.

    curvature.json: {"tensors": {GGUF tensor name: number of its matrix}, "tokens", "unmapped": [[tensor, reason]]}.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from sintra.layers import gguf_names
    from sintra.layout import read_layout
    from sintra.llama import Model

    torch.set_num_threads(context.threads)
    path = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(path)
    size = min(context.params["context"], layout["context"] or context.params["context"])
    tokenizer = Model(path, size, context.threads, vocab_only=True)
    windows = tokenizer.windows((context.inputs["text"] / "text.txt").read_text(), context.params["tokens"])
    tokenizer.close()
    model = AutoModelForCausalLM.from_pretrained(context.inputs["model"], dtype=torch.float32, trust_remote_code=False)
    names, unmapped = proven(model, path, gguf_names(model, layout))
    if not names:
        raise Infeasible("unsupported", f"no linear layer of a {layout['architecture']} could be mapped to its GGUF tensor")
    matrices, of = collect(model.train(False), names, windows, context.say)
    if layout["shape"]["tied"] and "output.weight" in of:
        of["token_embd.weight"] = of.pop("output.weight")
    for number, matrix in enumerate(matrices):
        np.save(context.out / f"{number:03}.npy", (matrix / windows.size).float().numpy())
    context.write_json("curvature.json", {"tensors": of, "tokens": int(windows.size), "unmapped": unmapped})


def proven(model: Any, path: Any, names: dict[str, str]) -> tuple[dict[str, str], list[list[str]]]:
    """The mapped layers whose GGUF tensor holds the layer's rows, in any order (the converter permutes some); the others."""
    from gguf import GGUFReader

    held = {t.name: t for t in GGUFReader(path).tensors}
    good, bad = {}, []
    for module, name in names.items():
        tensor = held.get(name) or (held.get("token_embd.weight") if name == "output.weight" else None)
        if tensor is None:
            bad.append([name, "not in the GGUF"])
        elif same_rows(tensor, model.get_submodule(module).weight):
            good[module] = name
        else:
            bad.append([name, "its rows are not the layer's"])
    return good, bad


def same_rows(tensor: Any, weight: Any) -> bool:
    """Whether a 16-bit or 32-bit GGUF tensor and a module's weight (rows, columns) hold the same rows."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    stored = dequantize(tensor.data, tensor.tensor_type)
    wanted = weight.detach().float()
    if tensor.tensor_type == GGMLQuantizationType.F16:
        wanted = wanted.half().float()
    elif tensor.tensor_type == GGMLQuantizationType.BF16:
        wanted = wanted.bfloat16().float()
    rows = wanted.numpy()
    return stored.shape == rows.shape and sorted(r.tobytes() for r in stored) == sorted(r.tobytes() for r in rows)


def collect(model: Any, names: dict[str, str], windows: Any, say: Callable[[str], None]) -> tuple[list[Any], dict[str, int]]:
    """Run the text through the model: the distinct X'X in float64 and, for each tensor name, which one is its own."""
    import torch

    matrices: list[Any] = []
    of: dict[str, int] = {}
    seen: list[tuple[Any, int]] = []  # the inputs of this window so far: the same tensor object means the same input

    def hook(name: str) -> Callable[..., None]:
        def add(_: Any, args: tuple[Any, ...]) -> None:
            x = args[0]
            number = next((n for y, n in seen if y is x), None)
            if name not in of:
                of[name] = len(matrices) if number is None else number
                if number is None:
                    matrices.append(torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float64))
            if number is None:
                flat = x.detach().reshape(-1, x.shape[-1])
                matrices[of[name]] += (flat.T @ flat).double()
                seen.append((x, of[name]))

        return add

    hooks = [m.register_forward_pre_hook(hook(names[n])) for n, m in model.named_modules() if n in names]
    with torch.no_grad():
        for number, window in enumerate(windows):
            seen.clear()
            model(input_ids=torch.from_numpy(window).long()[None])
            say(f"window {number + 1} of {len(windows)}")
    for one in hooks:
        one.remove()
    return matrices, of


STAGE = Stage("curvature", 1, run, tools=("torch", "transformers"))
