"""Read the importance matrix that the curvature stage wrote, and write it as llama-imatrix does.

The GGUF form is that of llama.cpp's tools/imatrix: of every tensor the sums of squares of its
input's columns, and over how many rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def write_imatrix(
    path: Path,
    importance: Mapping[str, NDArray[np.float32]],
    columns: Mapping[str, int],
    tokens: int,
    context: int,
    dataset: str,
) -> None:
    """Write an importance matrix as a GGUF that `llama-quantize --imatrix` reads.

    importance: tensor name -> mean square of each input column, of all experts one after the other;
    columns: tensor name -> row length; tokens, context: of the calibration; dataset: its name.
    A sum is its mean times a power of two next below the number of tokens, so that llama.cpp,
    which divides by it, has exactly our numbers.
    """
    import gguf  # loads numpy
    import numpy as np

    rows = 2 ** int(math.log2(max(1, tokens)))
    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.kv_data[0].pop("general.architecture", None)  # it is of no model
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", max(1, tokens // context))
    writer.add_uint32("imatrix.chunk_size", context)
    for name, means in sorted(importance.items()):
        experts = means.reshape(-1, columns[name])
        writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(experts * np.float32(rows)))
        writer.add_tensor(f"{name}.counts", np.full((len(experts), 1), rows, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
