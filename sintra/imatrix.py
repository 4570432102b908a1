"""The importance matrix as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(folder: Path, dropped: list[int]) -> dict[str, Any]:
    """The matrix for a model without some of its blocks: the blocks behind a gap move up."""
    import numpy as np

    kept: dict[str, Any] = {}
    with np.load(folder / "importance.npz", allow_pickle=False) as data:
        for name in data.files:
            parts = name.split(".")
            if parts[0] == "blk":
                block = int(parts[1])
                if block in dropped:
                    continue
                parts[1] = str(block - sum(d < block for d in dropped))
            kept[".".join(parts)] = np.ascontiguousarray(data[name], dtype=np.float32)
    return kept
