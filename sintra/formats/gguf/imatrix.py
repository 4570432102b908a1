"""The importance matrix as a file, and tensor names in a model without some of its blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.formats.gguf.tensor_names import moved


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
