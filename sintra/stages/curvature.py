"""The curvature of every linear layer: X'X over the calibration text and a share of random tokens,
X being the layer's inputs, (tokens, columns).

Compensated rounding (sintra.stages.rounding) works in this metric, and its diagonal over the text is the
importance matrix that llama.cpp's quantizers weigh errors by: one pass serves both. Layers that
read the same input (query, key and value; gate and up) share one matrix; every expert has its own.
The model is run block by block, so that one block and its matrices are in memory; a killed run goes
on at its block. The tokens are llama.cpp's own, from the converted model's vocabulary.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.runtime.blocks import BlockModel, OuterLayers, block_influence, run_block
from sintra.stages.rounding.hessian import Bank, Found, Inputs, proven, proven_banks
from sintra.store.files import link_or_copy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


def run(context: Context) -> None:
    """Write NNN.npy (columns, columns) float32, mean over tokens; curvature.json; importance.npz.

    curvature.json: {"tensors": {GGUF tensor name: the number of its matrix, or a list of them, one
    for each expert}, "influence": [of each block, see sintra.formats.runtime.blocks.influence], "tokens",
    "unmapped": [[tensor, reason]]}. importance.npz: GGUF tensor name -> float32 vector of the row's
    length.
    """
    from sintra.formats.gguf.layout import read_layout
    from sintra.formats.gguf.tensor_names import expert_names, gguf_names
    from sintra.formats.runtime.llama_cpp import LlamaModel, noise_windows

    torch.set_num_threads(context.threads)
    path = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(path)
    size = min(context.params["context"], layout["context"] or context.params["context"])
    tokenizer = LlamaModel(path, size, context.threads, vocab_only=True)
    windows = tokenizer.windows(
        (context.inputs["text"] / "text.txt").read_text(), context.params["tokens"]
    )
    normal = tokenizer.normal_tokens()
    tokenizer.close()
    model = BlockModel(context.inputs["model"])
    names = gguf_names(model.net, layout)
    if not names:
        raise Infeasible(
            "unsupported",
            f"no linear layer of a {layout['architecture']} could be mapped to its GGUF tensor",
        )
    if model.whole:
        context.say("the checkpoint's names aren't the modules': the whole model is loaded at once")
    context.keep.mkdir(parents=True, exist_ok=True)
    everything = np.concatenate(
        [windows, noise_windows(len(windows), size, context.params["random"], normal)]
    )
    found = walk(
        model, names, expert_names(model.net), path, Calibration(everything, len(windows)), context
    )
    if layout["shape"]["tied"] and "output.weight" in found.of:
        found.of["token_embd.weight"] = found.of.pop("output.weight")
    publish(found, context)


@dataclass(frozen=True)
class Calibration:
    """Windows of token ids, (n, tokens); the first `plain` are text, the others random."""

    windows: Any
    plain: int


def walk(
    model: BlockModel,
    names: dict[str, str],
    experts: dict[str, Bank],
    gguf: Path,
    text: Calibration,
    context: Context,
) -> Found:
    """All blocks, then the output head; every block's matrices are written to keep/NNN.npy when it
    is done.
    """
    keep, parts, windows = context.keep, OuterLayers(model), text.windows
    from sintra.formats.gguf.header import open_gguf

    found, held = Found.load(keep), {t.name: t for t in open_gguf(gguf).tensors}
    count, start, resumed = len(model.blocks), time.monotonic(), found.blocks
    width = parts.first_input(as_batch(windows[0])).shape[
        -1
    ]  # also learns what the blocks are called with
    if found.blocks == 0:
        hidden = states(keep / "hidden-0.npy", windows, width)
        for i, window in enumerate(windows):
            hidden[i] = parts.first_input(as_batch(window))[0].float().numpy()
        hidden.flush()
    for number in range(found.blocks, count):
        block = model.load(number)
        own, banks = (prefixed(n, f"{model.prefix}.{number}.") for n in (names, experts))
        inputs = Inputs(
            proven(model, held, own, found.unmapped),
            proven_banks(model, held, banks, found.unmapped),
        )
        before = np.load(keep / f"hidden-{number}.npy", mmap_mode="r")
        after = states(keep / f"hidden-{number + 1}.npy", windows, width)
        with inputs.watching(model.net):
            for i in range(len(windows)):
                inputs.begin(i < text.plain)
                after[i] = run_block(
                    block, torch.from_numpy(np.array(before[i : i + 1])), parts.calls[number]
                )[0].numpy()
        after.flush()
        found.influence.append(block_influence(before[: text.plain], after[: text.plain]))
        model.drop(number)
        inputs.write(found, keep)
        found.blocks = number + 1
        found.save(keep)
        (keep / f"hidden-{number}.npy").unlink()
        pace = (time.monotonic() - start) / (number + 1 - resumed)
        context.say(f"block {number + 1} of {count}, {pace * (count - number - 1):.0f} s left")
    if found.blocks == count:
        own = {n: t for n, t in names.items() if n == model.head_name}
        hidden = np.load(keep / f"hidden-{count}.npy", mmap_mode="r")
        for name in proven(model, held, own, found.unmapped).values():
            inputs = Inputs({})
            for i, window in enumerate(windows):
                inputs.begin(i < text.plain)
                inputs.add(
                    name,
                    parts.head_input(
                        as_batch(window), torch.from_numpy(np.array(hidden[i : i + 1]))
                    ),
                )
            inputs.write(found, keep)
        found.blocks += 1
        found.save(keep)
    return found


def as_batch(window: Any) -> Tensor:
    """One window of token ids, (1, tokens)."""
    return torch.from_numpy(np.asarray(window)).long()[None]


def states(path: Path, windows: Any, width: int) -> Any:
    """Room for the hidden states between two blocks, (windows, tokens, width) float32, on disk."""
    return np.lib.format.open_memmap(path, "w+", np.float32, (*windows.shape, width))


def prefixed(names: dict[str, Any], start: str) -> dict[str, Any]:
    """The layers of one block."""
    return {n: t for n, t in names.items() if n.startswith(start)}


def publish(found: Found, context: Context) -> None:
    """From keep to out, with the diagonals over the text alone as the importance matrix."""
    diagonals = []
    for number in range(len(found.hits)):
        name = f"{number:03}.npy"
        link_or_copy(context.keep / name, context.out / name)
        diagonals.append(np.load(context.keep / f"{number:03}.diagonal.npy"))
    rows = {
        n: np.concatenate([diagonals[i] for i in ([of] if isinstance(of, int) else of)])
        for n, of in found.of.items()
    }
    np.savez(context.out / "importance.npz", **rows)  # type: ignore[arg-type]
    about = {"influence": found.influence, "tokens": max(found.hits), "unmapped": found.unmapped}
    context.write_json("curvature.json", {"tensors": found.of, **about})


STAGE = Stage("curvature", 3, run, tools=("torch", "transformers"))
