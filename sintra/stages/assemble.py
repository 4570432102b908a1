"""A mix of tensor types, put together from the uniform files of its types.

Nothing is quantized again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.assemble import assemble
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import resolve_types
from sintra.formats.runtime.quantizer import file_types
from sintra.stages.rounding.whole_file import RoundingJson

Layouts = Mapping[str, Mapping[str, Any]]
"""Tensor type -> layout.json of its uniform file."""


def run(context: Context) -> None:
    """Write model.gguf and layout.json, as `quantize` does.

    inputs: a `quantize` artifact for each type, named by the type.
    Raises Infeasible where the files don't fit together or lack a type that was asked for.
    """
    layouts: Layouts = {
        kind: json.loads((folder / "layout.json").read_text())
        for kind, folder in context.inputs.items()
    }
    chosen = chosen_types(context.params["tensors"], layouts)
    parts = {kind: folder / "model.gguf" for kind, folder in context.inputs.items()}
    target = context.out / "model.gguf"
    try:
        assemble(parts, chosen, file_types()[context.params["type"]], target)
    except (ValueError, KeyError) as error:
        raise Infeasible("refused", f"the mix can't be put together: {error}") from None
    layout = read_layout(target)
    check_types(layout, chosen, layouts)
    layout["fallbacks"] = [
        row
        for kind, part in layouts.items()
        for row in part["fallbacks"]
        if chosen.get(row[0]) == kind
    ]
    if rounding := merged_rounding(chosen, layouts):
        layout["rounding"] = rounding
    context.write_json("layout.json", layout)


def chosen_types(overrides: Iterable[tuple[str, str]], layouts: Layouts) -> dict[str, str]:
    """Return tensor -> its type, of all matrices whose type has a uniform file."""
    first = next(iter(layouts.values()))
    names = [name for name, _, _, shape in first["tensors"] if len(shape) > 1]
    return {n: kind for n, kind in resolve_types(overrides, names).items() if kind in layouts}


def check_types(layout: Mapping[str, Any], chosen: Mapping[str, str], layouts: Layouts) -> None:
    """Raise Infeasible where a tensor isn't of the type that its uniform file has."""
    expected = {
        row[0]: row[1]
        for kind, part in layouts.items()
        for row in part["tensors"]
        if chosen.get(row[0]) == kind
    }
    for name, kind, *_ in layout["tensors"]:
        if expected.get(name, kind) != kind:
            raise Infeasible("unsupported", f"{name} isn't of the type that was asked for")


def merged_rounding(chosen: Mapping[str, str], layouts: Layouts) -> RoundingJson | None:
    """Return how the mix's tensors were rounded; None where no part was compensated."""
    parts: dict[str, RoundingJson] = {
        kind: layout["rounding"] for kind, layout in layouts.items() if layout.get("rounding")
    }
    if not parts:
        return None
    return {
        "compensated": {
            name: measure
            for kind, part in parts.items()
            for name, measure in part["compensated"].items()
            if chosen.get(name) == kind
        },
        "nearest": [
            row
            for kind, part in parts.items()
            for row in part["nearest"]
            if chosen.get(row[0]) == kind
        ],
    }


STAGE = Stage("assemble", 1, run, files=("model.gguf", "layout.json"))
