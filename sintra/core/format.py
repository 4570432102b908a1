"""File formats of a variant: what runs them and what makes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A file format that variants can have."""

    name: str  # as in the option formats
    runtime: str  # what a device must have to run it
    environment: str = ""  # the libraries that make and read it; empty: Sintra's own


# A table instead of entry points: what a device can run must be known without imports.
FORMATS = {
    f.name: f
    for f in (
        Format("gguf", "llama.cpp"),
        Format("gptq", "transformers", "compressor"),
        Format("awq", "transformers", "compressor"),
        Format("gptq_native", "transformers", "gptq"),
    )
}
# Names of sparse formats, which are refused with the reason: a file of the same bytes and speed is
# no gain.
SPARSE = ("sparse", "2:4", "wanda", "sparsegpt")


def runnable_formats(formats: tuple[str, ...], runtimes: tuple[str, ...]) -> tuple[str, ...]:
    """Return those formats that a device with these runtimes can run."""
    return tuple(f for f in formats if FORMATS[f].runtime in runtimes)
