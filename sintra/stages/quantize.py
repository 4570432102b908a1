"""From 16 bits to a file type of llama.cpp, with types for single tensors.

What was written is read back. With a curvature at hand the codes are then chosen anew by
compensated rounding: same types, same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.imatrix import load_importance
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime import quantizer
from sintra.stages.rounding.whole_file import RoundingJson, compensate_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
else:
    torch = lazy.module("torch")

Overrides = list[tuple[str, str]]
"""(regular expression of tensor names, ggml type); the first match wins."""
Importance = dict[str, "NDArray[np.float32]"]
"""GGUF tensor name -> weights of its columns' errors, (columns,)."""


def run(context: Context) -> None:
    """Write model.gguf and layout.json.

    layout.json has the types and sizes that were written, "fallbacks" (see `fallbacks`) and with a
    curvature "rounding" (RoundingJson). inputs: gguf (16 bits), importance and curvature where they
    are used.
    Raises Infeasible for an unknown type, and where llama.cpp refuses or ignores one.
    """
    overrides = tensor_overrides(context)
    importance = None
    if "importance" in context.inputs:
        importance = load_importance(context.inputs["importance"], context.params["dropped"])
    target = context.out / "model.gguf"
    quantize_to(target, context, overrides, importance)
    layout = read_layout(target)
    layout["fallbacks"] = fallbacks(layout, overrides)
    if "curvature" in context.inputs:
        layout["rounding"] = compensate_target(target, context, overrides, importance is not None)
    context.write_json("layout.json", layout)


def tensor_overrides(context: Context) -> Overrides:
    """Return params["tensors"] as pairs. Raises Infeasible for an unknown type."""
    import gguf  # imports numpy, which a run with nothing to do must not load

    overrides = [(pattern, kind) for pattern, kind in context.params["tensors"]]
    for _, kind in overrides:
        if kind not in gguf.GGMLQuantizationType.__members__:
            raise Infeasible("refused", f"{kind} is not a tensor type of ggml")
    return overrides


def quantize_to(
    target: Path, context: Context, overrides: Overrides, importance: Importance | None
) -> None:
    """Write `target` by llama.cpp's quantizer. Raises Infeasible where it refuses."""
    quantizer.quantize(
        context.inputs["gguf"] / "model.gguf",
        target,
        context.threads,
        kind=context.params["type"],
        tensors=overrides,
        matrix=importance,
    )


def compensate_target(
    target: Path, context: Context, overrides: Overrides, has_importance: bool
) -> RoundingJson:
    """Choose the codes of `target` anew in the metric of the curvature.

    A file that was made with an importance matrix gets a second start for each row: the scales that
    llama.cpp chooses without it.
    """
    torch.set_num_threads(context.threads)
    alternative = without_importance(context, overrides) if has_importance else None
    rounding = compensate_file(
        target,
        context.inputs["gguf"] / "model.gguf",
        context.inputs["curvature"],
        context.keep,
        context.say,
        context.params["dropped"],
        alternative=alternative,
    )
    if alternative:
        alternative.unlink(missing_ok=True)
    return rounding


def without_importance(context: Context, overrides: Overrides) -> Path | None:
    """Write the file without an importance matrix beside the artifact, and return its path.

    None where llama.cpp can't make the type without one.
    """
    path = context.out.parent / f"{context.out.name}.plain.gguf"
    try:
        quantize_to(path, context, overrides, None)
    except Infeasible:
        path.unlink(missing_ok=True)
        return None
    return path


def fallbacks(layout: Mapping[str, Any], overrides: Overrides) -> list[list[str]]:
    """Return [tensor, requested type, written type] where the rows don't fit the requested type.

    Raises Infeasible where a type was ignored for any other reason.
    """
    import gguf  # imports numpy, which a run with nothing to do must not load

    missed = []
    for name, written, _, shape in layout["tensors"]:
        requested = next((kind for pattern, kind in overrides if re.search(pattern, name)), None)
        if requested is None or requested == written or len(shape) < 2:
            continue
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[requested]][0]
        if shape[0] % block == 0:
            raise Infeasible(
                "unsupported", f"{name}: asked for {requested}, llama.cpp wrote {written}"
            )
        missed.append([name, requested, written])
    return missed


STAGE = Stage("quantize", 2, run, tools=("llama-cpp-python",), files=("model.gguf", "layout.json"))
