"""Look at every weight of a safetensors file once: is it a number, and does float16 hold it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sintra.core import lazy
from sintra.core.errors import UserError
from sintra.formats.checkpoint.safetensors import read_safetensors_header

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

FLOAT16_LIMIT = 65520.0  # from here on rounding to float16 gives infinity
PIECE = 1 << 24  # elements that are looked at together
# Stored type -> unsigned type of its width, mask without the sign, bits of infinity.
BITS = {
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
}


class Extreme(NamedTuple):
    """The weight of the largest magnitude in a file."""

    tensor: str  # its tensor's name; "" for a file without weights
    magnitude: float  # infinite or NaN where a weight is

    def as_text(self) -> str:
        """Return it as text, which `parse` reads."""
        return json.dumps(list(self))

    @staticmethod
    def parse(text: str) -> Extreme:
        """Return what as_text wrote."""
        tensor, magnitude = json.loads(text)
        return Extreme(tensor, magnitude)


def read_extreme(path: Path) -> Extreme:
    """Return the weight of the largest magnitude of a safetensors file; NaN counts as largest.

    Raises UserError for a damaged file.
    """
    header = read_safetensors_header(path)
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    worst = Extreme("", 0.0)
    for name, entry in header.items():
        if entry["dtype"] not in BITS:
            continue
        unsigned, mask, infinity = BITS[entry["dtype"]]
        first, end = (start + n for n in entry["data_offsets"])
        bits = np.frombuffer(data, unsigned, (end - first) // int(unsigned[-1]), first)
        largest = max(
            (int((bits[i : i + PIECE] & mask).max()) for i in range(0, len(bits), PIECE)),
            default=0,
        )
        if largest > infinity:
            return Extreme(name, float("nan"))
        magnitude = _value(largest, entry["dtype"])
        if magnitude > worst.magnitude:
            worst = Extreme(name, magnitude)
    return worst


def _value(bits: int, dtype: str) -> float:
    """Return the number that has these bits."""
    if dtype == "F16":
        return float(np.array(bits, np.uint16).view(np.float16))
    return float(np.array(bits << 16 if dtype == "BF16" else bits, np.uint32).view(np.float32))


def refuse_extreme(folder: Path, extreme: Extreme, convert: str | None) -> None:
    """Refuse weights that are no numbers, or that the GGUF's type can't hold.

    convert: model.convert; None where that isn't known yet. Raises UserError.
    """
    name, magnitude = extreme.tensor[:100], extreme.magnitude
    if magnitude != magnitude or magnitude == float("inf"):
        what = "infinite" if magnitude == magnitude else "NaN"
        raise UserError(
            f"{folder}: {name!r} holds {what} weights: the file is damaged, or training diverged"
        )
    if convert == "f16" and magnitude >= FLOAT16_LIMIT:
        raise UserError(
            f"{folder}: {name!r} holds a weight of {magnitude:.3g}, float16 ends at 65504: give "
            "model.convert=bf16"
        )
