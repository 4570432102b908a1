"""File formats of a variant: what runs them and what makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """runtime: what a device must have to run it; environment: the libraries that make and read it;
    library: their maker.
    """

    name: str
    runtime: str
    environment: str = ""
    library: str = ""


# A table, not entry points: which device can run what has to be known without importing anything.
FORMATS = {
    f.name: f
    for f in (
        Format("gguf", "llama.cpp"),
        Format("gptq", "transformers", "compressor", "llmcompressor"),
        Format("awq", "transformers", "compressor", "llmcompressor"),
        Format("gptq_native", "transformers", "gptq", "gptqmodel"),
    )
}


# Pruned weights: asked for, they are refused with the reason, since a file of the same bytes and
# speed is no gain.
SPARSE = ("sparse", "2:4", "wanda", "sparsegpt")


def runnable(formats: tuple[str, ...], runtimes: tuple[str, ...]) -> tuple[str, ...]:
    """Those that a device with these runtimes can run."""
    return tuple(f for f in formats if FORMATS[f].runtime in runtimes)
