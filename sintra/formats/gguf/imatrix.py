"""Read the importance matrix that the curvature stage wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sintra.formats.gguf.tensor_names import renumber_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def load_importance(folder: Path, dropped: list[int]) -> dict[str, NDArray[np.float32]]:
    """Read the importance matrix for a model without some of its blocks.

    Returns the importance of each input column by tensor name (in the model without `dropped`).
    """
    import numpy as np  # not on the no-op path

    with np.load(folder / "importance.npz", allow_pickle=False) as data:
        names = {name: renumber_tensor(name, dropped) for name in data.files}
        return {
            new: np.ascontiguousarray(data[old], dtype=np.float32)
            for old, new in names.items()
            if new
        }
