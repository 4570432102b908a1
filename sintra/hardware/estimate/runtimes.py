"""Estimates of a device's speed and memory for runtimes other than llama.cpp.

transformers unpacks a GPTQ or AWQ checkpoint when it runs it (on a CPU to float32, on a GPU to 16
bits), so that memory and bytes read are those of the whole model: packing saves disk, not memory. A
block costs Python's calls on top: about 2 ms on one core of an Intel Xeon (docs/benchmarks.md),
taken for every machine, with half to twice the speed as the interval. The runtime's own memory is
what fable's measured peak there has beyond its unpacked weights (484 less 29 MB), again taken for
all, up to twice of it.
"""

from __future__ import annotations

from dataclasses import replace

from sintra.core.types import Hardware, Measurement
from sintra.hardware.estimate.estimate import Shape, estimate

CALLS_S = 0.002
SPREAD = 0.5
RUNTIME_BYTES = 434 * 2**20


def unpacked(shape: Shape, device: Hardware) -> Shape:
    """The shape in memory."""
    width = 4 if device.backend == "cpu" else 2
    return replace(
        shape,
        weight_bytes=width * shape.parameters,
        embedding_bytes=width * shape.vocabulary * shape.width,
    )


def estimated(
    shape: Shape, device: Hardware, context: int, kv: str, runtime: str
) -> tuple[Measurement, ...]:
    """As sintra.hardware.estimate.estimate's, for a runtime."""
    if runtime == "llama.cpp":
        return estimate(shape, device, context, kv)
    slower = replace(device, overhead_s_per_layer=device.overhead_s_per_layer + CALLS_S)
    return tuple(
        _labelled(row, runtime) for row in estimate(unpacked(shape, device), slower, context, kv)
    )


def _labelled(row: Measurement, runtime: str) -> Measurement:
    protocol = f"{row.protocol}; {runtime}, weights unpacked"
    if row.metric == "device_ram_bytes":
        more = RUNTIME_BYTES
        return replace(
            row, value=row.value + more, low=row.value, high=row.value + 2 * more, protocol=protocol
        )
    if row.metric == "device_tg_tps":
        return replace(row, low=row.value * SPREAD, high=row.value / SPREAD, protocol=protocol)
    return replace(row, protocol=protocol)
