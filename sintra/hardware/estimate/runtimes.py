"""Estimate a device's speed and memory for runtimes other than llama.cpp.

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
from sintra.hardware.estimate.estimate import Shape, estimate_metrics

CALLS_S = 0.002  # Python's calls per block and token, seconds
SPREAD = 0.5  # lower end of the speed's interval, as a share of the speed
RUNTIME_BYTES = 434 * 2**20  # what the runtime holds beside the weights, bytes


def unpack_shape(shape: Shape, device: Hardware) -> Shape:
    """Return the shape that a checkpoint has in memory once it is unpacked."""
    width = 4 if device.backend == "cpu" else 2  # bytes per weight
    return replace(
        shape,
        weight_bytes=width * shape.parameters,
        embedding_bytes=width * shape.vocabulary * shape.width,
    )


def estimate_for_runtime(
    shape: Shape, device: Hardware, context: int, kv: str, runtime: str, depth: int = 0
) -> tuple[Measurement, ...]:
    """Return a device's tokens/s, memory and load time under a runtime, with 90 % intervals.

    runtime: "llama.cpp", or a name for transformers'; context: tokens; kv: type of the KV
    cache; depth: tokens in it when speed is judged.
    """
    if runtime == "llama.cpp":
        return estimate_metrics(shape, device, context, kv, depth)
    slower = replace(device, overhead_s_per_layer=device.overhead_s_per_layer + CALLS_S)
    rows = estimate_metrics(unpack_shape(shape, device), slower, context, kv, depth)
    return tuple(_widen_estimate(row, runtime) for row in rows)


def _widen_estimate(row: Measurement, runtime: str) -> Measurement:
    """Return an estimate with the runtime's own memory and the runtime's wider interval."""
    protocol = f"{row.protocol}; {runtime}, weights unpacked"
    if row.metric == "device_ram_bytes":
        return replace(
            row,
            value=row.value + RUNTIME_BYTES,
            low=row.value,
            high=row.value + 2 * RUNTIME_BYTES,
            protocol=protocol,
        )
    if row.metric.startswith("device_tg_tps"):
        return replace(row, low=row.value * SPREAD, high=row.value / SPREAD, protocol=protocol)
    return replace(row, protocol=protocol)
