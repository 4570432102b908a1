"""A mix of tensor types, put together from the uniform files of its types: nothing is quantized
again.
"""

from __future__ import annotations

import json

from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.assemble import assemble
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import resolve_types
from sintra.formats.runtime.quantizer import file_types


def run(context: Context) -> None:
    """inputs: a `quantize` artifact for each type, named by the type. Write model.gguf and
    layout.json, as `quantize` does.
    """
    layouts = {
        role: json.loads((folder / "layout.json").read_text())
        for role, folder in context.inputs.items()
    }
    names = [
        name for name, kind, _, shape in next(iter(layouts.values()))["tensors"] if len(shape) > 1
    ]
    chosen = {
        n: t for n, t in resolve_types(context.params["tensors"], names).items() if t in layouts
    }
    parts = {role: folder / "model.gguf" for role, folder in context.inputs.items()}
    try:
        assemble(parts, chosen, file_types()[context.params["type"]], context.out / "model.gguf")
    except (ValueError, KeyError) as error:
        raise Infeasible("refused", f"the mix can't be put together: {error}") from None
    layout = read_layout(context.out / "model.gguf")
    wanted = {
        row[0]: row[1]
        for role, found in layouts.items()
        for row in found["tensors"]
        if chosen.get(row[0]) == role
    }
    if wrong := [t[0] for t in layout["tensors"] if wanted.get(t[0], t[1]) != t[1]]:
        raise Infeasible("unsupported", f"{wrong[0]} isn't of the type that was asked for")
    layout["fallbacks"] = [
        row
        for role, found in layouts.items()
        for row in found["fallbacks"]
        if chosen.get(row[0]) == role
    ]
    roundings = {role: found.get("rounding") for role, found in layouts.items()}
    if any(roundings.values()):
        layout["rounding"] = {
            "compensated": {
                n: v
                for r, x in roundings.items()
                if x
                for n, v in x["compensated"].items()
                if chosen.get(n) == r
            },
            "nearest": [
                row
                for r, x in roundings.items()
                if x
                for row in x["nearest"]
                if chosen.get(row[0]) == r
            ],
        }
    context.write_json("layout.json", layout)


STAGE = Stage("assemble", 1, run)
