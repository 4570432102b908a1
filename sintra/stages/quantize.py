"""From 16 bits to a file type of llama.cpp, with types for single tensors; what was written is read
back.

With a curvature at hand the integers are then chosen anew by compensated rounding: same types, same
bytes.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime import quantizer


def run(context: Context) -> None:
    """Write model.gguf and layout.json (true types and sizes, and the tensors whose type fell
    back).
    """
    import gguf

    kind, tensors = context.params["type"], [(p, t) for p, t in context.params["tensors"]]
    for _, name in tensors:
        if name not in gguf.GGMLQuantizationType.__members__:
            raise Infeasible("refused", f"{name} is no tensor type of ggml")
    matrix = None
    if "importance" in context.inputs:
        from sintra.formats.gguf.imatrix import load_importance

        matrix = load_importance(context.inputs["importance"], context.params["dropped"])
    out = context.out / "model.gguf"
    quantizer.quantize(
        context.inputs["gguf"] / "model.gguf",
        out,
        context.threads,
        kind=kind,
        tensors=tensors,
        matrix=matrix,
    )
    layout = read_layout(out)
    layout["fallbacks"] = fallbacks(layout, tensors)
    if "curvature" in context.inputs:
        import torch

        from sintra.stages.rounding.whole_file import improve

        torch.set_num_threads(context.threads)
        source, curvature = context.inputs["gguf"] / "model.gguf", context.inputs["curvature"]
        other = None
        if matrix is not None:
            with contextlib.suppress(
                Infeasible
            ):  # some types can't be made without an importance matrix
                other = context.out.parent / f"{context.out.name}.plain.gguf"
                quantizer.quantize(
                    context.inputs["gguf"] / "model.gguf",
                    other,
                    context.threads,
                    kind=kind,
                    tensors=tensors,
                )
        layout["rounding"] = improve(
            out,
            source,
            curvature,
            context.keep,
            context.say,
            context.params["dropped"],
            other=other,
        )
        if other:
            other.unlink(missing_ok=True)
    context.write_json("layout.json", layout)


def fallbacks(layout: dict[str, Any], tensors: list[tuple[str, str]]) -> list[list[str]]:
    """[tensor, asked, written] wherever the file's type isn't what was asked for, because its rows
    don't fit the type.

    Raises Infeasible when a type was ignored for any other reason.
    """
    import gguf

    missed = []
    for name, written, _, shape in layout["tensors"]:
        asked = next((t for pattern, t in tensors if re.search(pattern, name)), None)
        if asked is None or asked == written or len(shape) < 2:
            continue
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[asked]][0]
        if shape[0] % block == 0:
            raise Infeasible("unsupported", f"{name}: asked for {asked}, llama.cpp wrote {written}")
        missed.append([name, asked, written])
    return missed


STAGE = Stage("quantize", 2, run, tools=("llama-cpp-python",))
