"""The importance matrix as a file, and tensor names in a model without some of its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def place(block: int, dropped: list[int]) -> int:
    """The number of a block that stays once others are left out: those behind a gap move up."""
    return block - sum(d < block for d in dropped)


def moved(name: str, dropped: list[int]) -> str | None:
    """A tensor's name once blocks are left out; None where it is left out itself."""
    parts = name.split(".")
    if parts[0] == "blk":
        block = int(parts[1])
        if block in dropped:
            return None
        parts[1] = str(place(block, dropped))
    return ".".join(parts)


def load(folder: Path, dropped: list[int]) -> dict[str, Any]:
    """The matrix for a model without some of its blocks."""
    import numpy as np

    with np.load(folder / "importance.npz", allow_pickle=False) as data:
        names = {name: moved(name, dropped) for name in data.files}
        return {
            new: np.ascontiguousarray(data[old], dtype=np.float32)
            for old, new in names.items()
            if new
        }
