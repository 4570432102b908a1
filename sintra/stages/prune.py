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

    params: drop, blocks to leave out; no_attention (may be absent), blocks whose attention to leave
    out; both by their numbers in the whole model.
    Raises Infeasible where the model hasn't these blocks or llama.cpp can't run the outcome.
    """
    source, target = context.inputs["gguf"] / "model.gguf", context.out / "model.gguf"
    drop, no_attention = context.params["drop"], context.params.get("no_attention", [])
    layers = read_layout(source)["shape"]["layers"]
    check_blocks(drop, no_attention, layers)
    if not no_attention:
        quantize(source, target, context.threads, copy=True, drop=drop)
    else:
        remove_attention(context, without_blocks(context, source, drop) if drop else source, target)
    layout = read_layout(target)
    if layout["shape"]["layers"] != layers - len(drop):
        raise Infeasible(
            "unsupported",
            f"asked for {layers - len(drop)} blocks, the file has {layout['shape']['layers']}",
        )
    context.write_json("layout.json", layout)


def check_blocks(drop: list[int], no_attention: list[int], layers: int) -> None:
    """Raise Infeasible where the blocks can't be left out of a model of `layers` blocks."""
    if any(not 0 <= d < layers for d in drop) or len(set(drop)) >= layers:
        raise Infeasible(
            "refused",
            f"blocks {drop} can't be dropped from a model of {layers} blocks (0 to {layers - 1})",
        )
    if set(drop) & set(no_attention):
        raise Infeasible(
            "refused",
            f"a block of {drop} is left out whole, its attention can't be left out as well",
        )


def without_blocks(context: Context, source: Path, drop: list[int]) -> Path:
    """Write the model without whole blocks into the step's keep folder, and return its path."""
    context.keep.mkdir(parents=True, exist_ok=True)
    target = context.keep / "fewer.gguf"
    quantize(source, target, context.threads, copy=True, drop=drop)
    return target


def remove_attention(context: Context, source: Path, target: Path) -> None:
    """Leave the attention out. Raises Infeasible where llama.cpp can't run such a model."""
    blocks = tuple(
        renumber_block(b, context.params["drop"]) for b in context.params["no_attention"]
    )
    try:
        without_attention(source, target, blocks)
    except ValueError as error:
        raise Infeasible("unsupported", str(error)) from None


STAGE = Stage(
    "prune", 1, run, tools=("llama-cpp-python", "gguf"), files=("model.gguf", "layout.json")
)
