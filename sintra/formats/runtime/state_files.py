"""Hidden states between two blocks, and gradients by them, as files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")


@dataclass(frozen=True)
class StateFiles:
    """A file of (windows, tokens, width) float32 before each block, and behind the last."""

    folder: Path
    what: str  # how the files' names begin
    shape: tuple[int, ...]  # (windows, tokens, width)

    def path(self, number: int) -> Path:
        """Return the file before a block."""
        return self.folder / f"{self.what}-{number}.npy"

    def read(self, number: int) -> NDArray[np.float32]:
        """Map what stands before a block."""
        states: NDArray[np.float32] = np.load(self.path(number), mmap_mode="r")
        return states

    def new(self, number: int) -> np.memmap[Any, np.dtype[np.float32]]:
        """Make room for what stands before a block."""
        return np.lib.format.open_memmap(self.path(number), "w+", np.float32, self.shape)

    def drop(self, number: int) -> None:
        """Delete what stands before a block, where it is still there."""
        self.path(number).unlink(missing_ok=True)
