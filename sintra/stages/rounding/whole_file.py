"""Compensated rounding of a whole GGUF, tensor after tensor, in place: only scales and codes
change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.stages.rounding.compensate import Options, compensate
from sintra.stages.rounding.grids import GRIDS

# An output that is also the embedding is looked up too, where every change counts alike: between
# the two metrics.
LOOKED_UP, SHARED_DAMPING = "token_embd.weight", 1.0


def improve(
    target: Path,
    source: Path,
    curvature: Path,
    keep: Path,
    say: Callable[[str], None],
    dropped: list[int] | None = None,
    options: Options | None = None,
    other: Path | None = None,
) -> dict[str, Any]:
    """Round the tensors of `target` (quantized to nearest) anew towards `source` (16 bits).

    other: the same file with other scales, from which rows may start as well; dropped: the blocks
    that both files lack; keep: finished tensors are left there, so that a killed run goes on behind
    them.

    Returns {"compensated": {tensor: [measure before, after]}, "nearest": [[tensor, reason]]}.
    """
    import numpy as np
    from gguf.quants import dequantize

    from sintra.formats.gguf.header import open_gguf

    known = json.loads((curvature / "curvature.json").read_text())["tensors"]
    of = {
        new: number for old, number in known.items() if (new := renumber_tensor(old, dropped or []))
    }
    second = {t.name: t for t in open_gguf(other).tensors} if other else {}
    exact = {t.name: t for t in open_gguf(source).tensors}
    keep.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    left: list[list[str]] = []
    tensors = [t for t in open_gguf(target, "r+").tensors if len(t.shape) > 1]
    for number, tensor in enumerate(tensors):
        kind, name = tensor.tensor_type.name, tensor.name
        grid = GRIDS.get(kind)
        if grid is None or name not in of:
            reason = f"{kind} has no grid here" if grid is None else "no curvature is known"
            left.append([name, reason])
            continue
        saved = keep / f"{name}.npz"
        if not saved.exists():
            numbers = [of[name]] if isinstance(of[name], int) else of[name]
            both = [
                t.data
                for t in (tensor, second.get(name))
                if t is not None and t.tensor_type == tensor.tensor_type
            ]
            raw = [np.array(data).reshape(len(numbers), -1, grid.size) for data in both]
            w = dequantize(exact[name].data, exact[name].tensor_type)
            w = w.reshape(len(numbers), -1, w.shape[-1])
            chosen = (
                replace(options or Options(), damping=SHARED_DAMPING)
                if name == LOOKED_UP
                else options
            )
            made = [
                compensate(
                    w[i], [r[i] for r in raw], grid, np.load(curvature / f"{n:03}.npy"), chosen
                )
                for i, n in enumerate(numbers)
            ]
            part = keep / "part.npz"
            np.savez(
                part,
                blocks=np.concatenate([m[0] for m in made]),
                measure=np.array([m[1:] for m in made]).sum(0),
            )
            part.replace(saved)
        with np.load(saved) as found:
            tensor.data[:] = found["blocks"].reshape(tensor.data.shape)
            done[name] = [float(x) for x in found["measure"]]
        share = done[name][1] / max(done[name][0], 1e-30)
        say(f"tensor {number + 1} of {len(tensors)}: {name} {kind}, {share:.2f} of the error")
    if tensors:
        base = tensors[0].data
        while not isinstance(base, np.memmap) and base.base is not None:
            base = base.base
        base.flush()
    return {"compensated": done, "nearest": left}
