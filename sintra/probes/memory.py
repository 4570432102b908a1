"""Peak resident memory of a process that reads a prompt of the study's context length, without mmap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sintra import lazy
from sintra.llama import opened
from sintra.protocols import peak
from sintra.report import write
from sintra.stage import Context, Stage, machine
from sintra.types import Measurement

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


def run(context: Context) -> None:
    """Fill the context once. The process's own size before the model is loaded stands in the protocol."""
    before, size, kv = peak(), context.params["context"], context.params.get("kv", "f16")
    with opened(context.inputs["gguf"] / "model.gguf", size, context.threads, mmap=False, kv=kv) as model:
        model.feed(np.zeros(size, dtype=np.int32))
        model.wait()
    how = f"context {size}, {kv} cache, no mmap, {before / 2**20:.0f} MiB before loading"
    write(context, [Measurement("ram_peak_bytes", peak(), "bytes", "measured", where=machine(), protocol=how)])


STAGE = Stage("memory", 1, run, ("llama-cpp-python",), platform=True, metrics=("ram_peak_bytes",))
