"""Leave whole blocks, or the attention of blocks, out of a 16-bit GGUF."""

from __future__ import annotations

from pathlib import Path

from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.attention import without_attention
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.tensor_names import renumber_block
from sintra.formats.runtime.quantizer import quantize


def run(context: Context) -> None:
    """Write model.gguf and layout.json; the number of blocks is read back.

    params: drop, blocks to leave out; no_attention, where given: blocks to leave the attention out
    of, by their numbers in the whole model.
    """
    source, drop = context.inputs["gguf"] / "model.gguf", context.params["drop"]
    silent, target = context.params.get("no_attention", []), context.out / "model.gguf"
    layers = read_layout(source)["shape"]["layers"]
    if any(not 0 <= d < layers for d in drop) or len(set(drop)) >= layers:
        raise Infeasible(
            "refused",
            f"blocks {drop} can't be dropped from a model of {layers} blocks (0 to {layers - 1})",
        )
    if set(drop) & set(silent):
        raise Infeasible(
            "refused",
            f"a block of {drop} is left out whole, its attention can't be left out as well",
        )
    if not silent:
        quantize(source, target, context.threads, copy=True, drop=drop)
    else:
        silence(context, fewer(context, source, drop) if drop else source, target)
    layout = read_layout(target)
    if layout["shape"]["layers"] != layers - len(drop):
        raise Infeasible(
            "unsupported",
            f"asked for {layers - len(drop)} blocks, the file has {layout['shape']['layers']}",
        )
    context.write_json("layout.json", layout)


def fewer(context: Context, source: Path, drop: list[int]) -> Path:
    """The model without whole blocks, for the next step to read."""
    context.keep.mkdir(parents=True, exist_ok=True)
    made = context.keep / "fewer.gguf"
    quantize(source, made, context.threads, copy=True, drop=drop)
    return made


def silence(context: Context, source: Path, target: Path) -> None:
    """Leave the attention out. Raises Infeasible where llama.cpp can't run such a model."""
    try:
        without_attention(
            source,
            target,
            tuple(
                renumber_block(b, context.params["drop"]) for b in context.params["no_attention"]
            ),
        )
    except ValueError as error:
        raise Infeasible("unsupported", str(error)) from None


STAGE = Stage("prune", 1, run, tools=("llama-cpp-python", "gguf"))
