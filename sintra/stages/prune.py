"""Leave whole blocks out of a 16-bit GGUF."""

from __future__ import annotations

from sintra.errors import Infeasible
from sintra.layout import read_layout
from sintra.quantizer import quantize
from sintra.stage import Context, Stage


def run(context: Context) -> None:
    """Write model.gguf and layout.json; the number of blocks is read back."""
    source, drop = context.inputs["gguf"] / "model.gguf", context.params["drop"]
    layers = read_layout(source)["shape"]["layers"]
    if any(not 0 <= d < layers for d in drop) or len(set(drop)) >= layers:
        raise Infeasible("refused", f"blocks {drop} can't be dropped from a model of {layers} blocks (0 to {layers - 1})")
    quantize(source, context.out / "model.gguf", context.threads, copy=True, drop=drop)
    layout = read_layout(context.out / "model.gguf")
    if layout["shape"]["layers"] != layers - len(drop):
        raise Infeasible("unsupported", f"asked for {layers - len(drop)} blocks, the file has {layout['shape']['layers']}")
    context.write_json("layout.json", layout)


STAGE = Stage("prune", 1, run, tools=("llama-cpp-python",))
