"""Estimate speed, memory and load time of a GGUF on a device that isn't here.

Decode: seconds per token = (bytes read + bytes per weight x weights) / (efficiency x bandwidth) +
layers x overhead; the cache is read, too (attention.py). The numbers are fitted on published
llama-bench points (sintra/hardware/estimate/fit.py) and bounded below them (small_layers.py).
Prefill: effective FLOP/s / (2 x weights + attention). Memory: weights + KV cache + compute buffer +
runtime.
Load: bytes / the storage's speed. Sources: docs/device.md and conf/hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sintra.core.kv_cache import kv_element_bytes
from sintra.core.metrics import at_depth
from sintra.core.types import Hardware, Measurement
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.attention import (
    attention_flops,
    attention_spread,
    cache_read,
    cached_elements,
    mean_cached,
)
from sintra.hardware.estimate.small_layers import (
    layer_overhead,
    overhead_range,
    prefill_range,
    relative_width,
)

RUNTIME_BYTES = 100 * 2**20  # what llama.cpp holds beside weights, cache and buffers, bytes
UBATCH = 512  # tokens of a micro-batch, llama.cpp's default (n_ubatch)
# Half-width of the 90 % interval of the logarithm of a type's cost, where only other types' were
# measured.
UNMEASURED_TYPE_SPREAD = 0.4

# A byte of the IQ types takes longer than one of the others: 5 to 10 % by Unsloth's measurements.
IQ_COSTS = dict.fromkeys(
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), 1.08
)

# On a CPU a byte of codewords also takes arithmetic: 2.7 to 3.5 times that of a Q4_K byte in ggml's
# products, on one core of a Xeon at 2.5 GHz with its data in the cache (docs/benchmarks.md); beside
# a slow memory it costs nothing. Here is the middle, and how far off either end is.
CODEBOOK_COSTS = {"IQ2_XXS": 1.9, "IQ2_XS": 1.8, "IQ2_S": 1.6, "IQ3_XXS": 1.8, "IQ3_S": 1.9}
CODEBOOK_SPREAD = 0.65  # half-width of the 90 % interval of the logarithm


def type_cost(tensor_type: str, k_quant: float = 0.0) -> float:
    """Return the time to read a byte of a tensor type, over that of ordinary types.

    k_quant: what K and IQ types cost more on a device, as a share.
    """
    cost = IQ_COSTS.get(tensor_type, 1.0)
    return cost + k_quant if is_k_quant(tensor_type) else cost


def is_k_quant(tensor_type: str) -> bool:
    """Return whether a byte of a tensor type costs more where K-quants do: K and IQ types."""
    return tensor_type in IQ_COSTS or tensor_type.endswith("_K")


def device_type_cost(tensor_type: str, device: Hardware) -> float:
    """Return the time to read a byte of a tensor type on a device, over that of ordinary types.

    Where the device has measurements of its own (sintra/hardware/estimate/calibrate.py), they
    count.
    """
    assumed = assumed_type_cost(tensor_type, device.backend, device.k_quant)
    return device.type_costs.get(tensor_type, assumed)


def assumed_type_cost(tensor_type: str, backend: str, k_quant: float) -> float:
    """Return `type_cost` where nothing was measured, with what codewords cost on a CPU."""
    if backend == "cpu" and tensor_type in CODEBOOK_COSTS:
        return CODEBOOK_COSTS[tensor_type] + k_quant
    return type_cost(tensor_type, k_quant)


@dataclass(frozen=True)
class Shape:
    """Hold what an estimate needs of a GGUF: bytes of its tensors and the architecture's sizes."""

    weight_bytes: int  # of all tensors
    embedding_bytes: int  # of the token embedding
    tied: bool  # whether the output is the token embedding
    parameters: int  # weights in all
    layers: int  # blocks
    width: int  # of the hidden state
    heads: int  # attention heads of a layer
    kv_heads: int  # heads that have keys and values of their own
    head_dim: int  # elements of a head
    vocabulary: int  # tokens
    slow_bytes: float = 0.0  # what slow types add to the bytes that a token reads
    k_bytes: float = 0.0  # bytes of K and IQ types that a token reads
    active: float = 1.0  # share of the weights that a token uses (experts), 0 to 1
    window: int = 0  # length of sliding attention, tokens; 0: none
    windowed: int = 0  # layers with sliding attention
    types: tuple[tuple[str, int], ...] = ()  # (tensor type, bytes of it that a token reads)
    inner: int = 0  # width of the feed-forward part; 0 where experts have it
    bare: int = 0  # layers without attention

    @staticmethod
    def of(layout: Mapping[str, Any]) -> Shape:
        """Return the shape of a layout.json, which convert and quantize write."""
        tied = layout["shape"]["tied"]
        read = [t for t in layout["tensors"] if tied or t[0] != "token_embd.weight"]
        types: dict[str, int] = {}
        for _, tensor_type, size, *_ in read:
            types[tensor_type] = types.get(tensor_type, 0) + size
        widths = (t[3][0] for t in layout["tensors"] if t[0].endswith(".ffn_down.weight"))
        return Shape(
            **layout["shape"],
            slow_bytes=sum((type_cost(t[1]) - 1) * t[2] for t in read),
            k_bytes=sum(t[2] for t in read if is_k_quant(t[1])),
            types=tuple(sorted(types.items())),
            inner=max(widths, default=0),
        )


def kv_bytes(shape: Shape, context: int, kv: str = "f16") -> float:
    """Return the bytes of the KV cache at a context length in tokens.

    It holds keys and values of every layer; sliding layers keep window + micro-batch of them.
    """
    return cached_elements(shape, context, shape.window + UBATCH) * kv_element_bytes(kv)


def compute_bytes(shape: Shape, context: int, flash: bool = True) -> float:
    """Return the bytes of the compute buffer for one micro-batch.

    The largest of: logits beside hidden states; a block's feed-forward part (three times its inner
    width, four times the width) with the attention mask; without flash attention, the scores.

    As llama.cpp's log has it (llama-cpp-python 0.3.36, CPU): 7.01, 32.51, 34.01 and 136.05 MiB;
    tests/hardware/test_estimate.py.
    """
    ubatch = min(UBATCH, context)
    logits = (shape.vocabulary + shape.width) * ubatch * 4.0
    block = (
        (3 * shape.inner + 4 * shape.width) * ubatch * 4.0 + 2.0 * context * ubatch
        if shape.inner
        else 0.0
    )
    return max(logits, block, 0.0 if flash else 1.1 * context * ubatch * shape.heads * 4.0)


def memory_beside_weights(
    shape: Shape, context: int, kv: str = "f16", device: Hardware | None = None
) -> float:
    """Return the bytes of everything in memory but the weights.

    llama.cpp takes flash attention by itself where the backend has it: always on a CPU.
    """
    runtime, flash = RUNTIME_BYTES, False
    if device:
        runtime, flash = device.runtime_bytes, device.backend == "cpu"
    compute = compute_bytes(shape, context, flash or kv != "f16")
    return kv_bytes(shape, context, kv) + compute + runtime


def weights_read(shape: Shape) -> float:
    """Return how many weights decoding one token uses."""
    return (shape.parameters - (0 if shape.tied else shape.vocabulary * shape.width)) * shape.active


def weight_bytes_read(shape: Shape, k_quant: float = 0.0) -> float:
    """Return the bytes of weights that decoding one token reads, slow types counted for more.

    They are every weight but an untied embedding's other rows.
    """
    weights = (
        shape.weight_bytes
        - (0 if shape.tied else shape.embedding_bytes)
        + shape.slow_bytes
        + k_quant * shape.k_bytes
    )
    return weights * shape.active


def bytes_read(shape: Shape, context: int, kv: str = "f16", k_quant: float = 0.0) -> float:
    """Return `weight_bytes_read` with half a cache of so many tokens, read once."""
    return weight_bytes_read(shape, k_quant) + kv_bytes(shape, context, kv) / 2


def decode_seconds(
    shape: Shape, device: Hardware, context: int, kv: str = "f16", depth: int = 0
) -> tuple[float, float]:
    """Return the seconds that a token takes for reading, and for the overhead of its layers.

    It is one of an answer that begins with `depth` tokens in a cache of `context`.
    """
    size = weight_bytes_read(shape, device.k_quant)
    size += cache_read(shape, device, mean_cached(context, depth), kv)
    size += device.bytes_per_weight * weights_read(shape)
    own = sum(
        n * (device_type_cost(t, device) - type_cost(t, device.k_quant)) for t, n in shape.types
    )
    size += own * shape.active
    return size / (device.efficiency * device.bandwidth), overhead_seconds(shape, device)


def weights_per_layer(shape: Shape) -> float:
    """Return how many weights a token uses for each layer, the output's among them."""
    return weights_read(shape) / max(1, shape.layers)


def has_small_layers(shape: Shape, device: Hardware) -> bool:
    """Return whether the device is a GPU and the layers are smaller than any that was fitted."""
    return device.backend != "cpu" and relative_width(weights_per_layer(shape)) < 1


def overhead_seconds(shape: Shape, device: Hardware) -> float:
    """Return the seconds that a token takes beside reading, of all layers."""
    each = layer_overhead(device.overhead_s_per_layer, weights_per_layer(shape), device.backend)
    return shape.layers * each


def decode_spread(
    shape: Shape, device: Hardware, context: int, kv: str = "f16", depth: int = 0
) -> float:
    """Return the half-width of the 90 % interval of log(tokens/s).

    The spreads of reading and of overhead count by their shares of the time.
    """
    reading, overhead = decode_seconds(shape, device, context, kv, depth)
    total = reading + overhead
    cached = cache_read(shape, device, mean_cached(context, depth), kv)
    cached /= device.efficiency * device.bandwidth
    unmeasured = codewords = 0.0  # shares of the bytes whose type was not measured
    if shape.types:
        size = sum(size for _, size in shape.types)
        guessed = [(t, n) for t, n in shape.types if t not in device.type_costs]
        if device.type_costs:
            unmeasured = sum(n for _, n in guessed) / size
        if device.backend == "cpu":
            codewords = sum(n for t, n in guessed if t in CODEBOOK_COSTS) / size
    small = overhead_range(device.overhead_s_per_layer, weights_per_layer(shape), device.backend)
    return math.hypot(
        reading / total * device.efficiency_spread,
        reading / total * unmeasured * UNMEASURED_TYPE_SPREAD,
        reading / total * codewords * CODEBOOK_SPREAD,
        cached / total * attention_spread(device),
        overhead / total * math.hypot(device.overhead_spread, small),
    )


def estimate_metrics(
    shape: Shape, device: Hardware, context: int, kv: str = "f16", depth: int = 0
) -> tuple[Measurement, ...]:
    """Return a device's tokens/s, memory and load time with 90 % intervals.

    context: of the KV cache, tokens; kv: its type; depth: tokens in it when speed is
    judged. Speed with a full cache stands beside that.
    """
    return (
        *_estimate_decode(shape, device, context, kv, depth),
        *_estimate_prefill(shape, device, depth),
        *_estimate_load(shape, device),
        *_estimate_depth(shape, device, context, kv),
    )


def _estimate_depth(shape: Shape, device: Hardware, depth: int, kv: str) -> Iterator[Measurement]:
    """Yield tokens/s of decoding and of prompts with so many tokens in the cache."""
    speed = 1 / sum(decode_seconds(shape, device, depth, kv, depth))
    spread = math.exp(decode_spread(shape, device, depth, kv, depth))
    protocol = f"bytes read / bandwidth with {depth} tokens in the cache"
    yield _speed_estimate(at_depth("device_tg_tps", depth), speed, spread, device, protocol)
    for row in _estimate_prefill(shape, device, depth):
        yield replace(row, metric=at_depth(row.metric, depth))


def _estimate_decode(
    shape: Shape, device: Hardware, context: int, kv: str, depth: int
) -> Iterator[Measurement]:
    """Yield tokens/s of decoding, memory, and tokens/s on a hot device where heat is known."""
    speed = 1 / sum(decode_seconds(shape, device, context, kv, depth))
    spread = math.exp(decode_spread(shape, device, context, kv, depth))
    after = f" behind {depth} tokens" if depth else ""
    protocol = f"bytes read / bandwidth, an answer of 512 tokens{after} at context {context}"
    yield _speed_estimate("device_tg_tps", speed, spread, device, protocol)
    yield _estimate_memory(shape, device, context, kv)
    if thermal.is_complete(device.thermal):
        hot = speed * thermal.sustained_speed(thermal.ThermalModel.of(device.thermal))
        yield Measurement(
            "device_tg_tps_sustained",
            hot,
            "tokens/s",
            "simulated",
            low=hot / spread,
            high=speed * spread,
            where=device.name,
            protocol="heat in equilibrium, simulated",
        )


def _estimate_memory(shape: Shape, device: Hardware, context: int, kv: str) -> Measurement:
    """Return the memory of a process that runs the model, bytes."""
    ram = shape.weight_bytes + memory_beside_weights(shape, context, kv, device)
    return Measurement(
        "device_ram_bytes",
        ram,
        "bytes",
        "estimated",
        low=ram - device.runtime_spread,
        high=ram + device.runtime_spread,
        where=device.name,
        protocol=f"weights + KV + compute + runtime at context {context}",
    )


def _estimate_prefill(shape: Shape, device: Hardware, depth: int) -> Iterator[Measurement]:
    """Yield tokens/s of a micro-batch behind `depth` tokens, where the device's FLOP/s are known.

    A micro-batch takes no less than its layers' overhead; layers that are too small for the
    device have no estimate.
    """
    small = prefill_range(weights_per_layer(shape), device.backend)
    if not device.flops or small is None:
        return
    seconds = 2 * shape.parameters * shape.active / device.flops
    seconds += attention_flops(shape, depth) / (device.attention_flops or device.flops)
    speed = 1 / seconds
    if overhead := overhead_seconds(shape, device):
        speed = min(speed, UBATCH / overhead)
    spread = math.exp(math.hypot(device.flops_spread, small))
    protocol = "effective FLOP/s / (2 x parameters + attention)"
    yield _speed_estimate("device_pp_tps", speed, spread, device, protocol)


def _speed_estimate(
    metric: str, speed: float, spread: float, device: Hardware, protocol: str
) -> Measurement:
    """Return an estimate in tokens/s from speed / spread to speed x spread."""
    return Measurement(
        metric,
        speed,
        "tokens/s",
        "estimated",
        low=speed / spread,
        high=speed * spread,
        where=device.name,
        protocol=protocol,
    )


def _estimate_load(shape: Shape, device: Hardware) -> Iterator[Measurement]:
    """Yield the seconds that loading takes, where the storage's speed is known."""
    if not device.storage:
        return
    seconds = shape.weight_bytes / device.storage
    yield Measurement(
        "device_load_s",
        seconds,
        "s",
        "estimated",
        low=seconds,
        high=2 * seconds,
        where=device.name,
        protocol="weights / the storage's sequential speed",
    )


@dataclass(frozen=True)
class Offload:
    """Hold how a model is split between a graphics card and its host."""

    layers: int  # on the card
    device_bytes: float  # memory taken on the card
    host_bytes: float  # memory taken on the host
    tps: float  # decoding, tokens/s
    low: float  # lower end of its 90 % interval
    high: float  # upper end


# What fitting gave for CPUs as a class (sintra/hardware/estimate/fit.py), for the layers that stay
# with the host; a test compares.
HOST_EFFICIENCY, HOST_SPREAD = 0.55, 0.61


def offload_layers(
    shape: Shape, device: Hardware, context: int, kv: str = "f16", depth: int = 0
) -> Offload | None:
    """Return the split with the most layers on the card that fit it, the rest on the host.

    None where the device has no host or both are too small. As llama.cpp's n_gpu_layers: a layer
    goes with its share of the cache; the output counts as one more layer and is the last to go;
    the token embedding stays with the host.
    """
    if not device.host_bandwidth or shape.layers < 1:
        return None
    layers, on_card, on_host = _split_memory(shape, device, context, kv)
    if layers < 0 or on_host > device.host_usable_bytes:
        return None
    share = layers / shape.layers
    reading, overhead = decode_seconds(shape, device, context, kv, depth)
    on_cpu = replace(device, backend="cpu", attention=0.0)
    host = weight_bytes_read(shape) + cache_read(shape, on_cpu, mean_cached(context, depth), kv)
    host /= HOST_EFFICIENCY * device.host_bandwidth
    seconds = share * (reading + overhead) + (1 - share) * host
    host_share = (1 - share) * host / seconds  # of the time
    spread = math.exp(
        math.hypot(
            (1 - host_share) * decode_spread(shape, device, context, kv, depth),
            host_share * HOST_SPREAD,
        )
    )
    return Offload(layers, on_card, on_host, 1 / seconds, 1 / seconds / spread, spread / seconds)


def _split_memory(
    shape: Shape, device: Hardware, context: int, kv: str
) -> tuple[int, float, float]:
    """Return the layers that fit the card, negative where not even its buffers do.

    With them: the bytes on the card and on the host.
    """
    inside = (shape.weight_bytes - shape.embedding_bytes * (1 if shape.tied else 2)) / shape.layers
    layer = inside + kv_bytes(shape, context, kv) / shape.layers
    beside = compute_bytes(shape, context, False) + device.runtime_bytes
    layers = min(shape.layers, int((device.usable_bytes - beside) // layer))
    whole = (
        layers == shape.layers
        and layers * layer + shape.embedding_bytes + beside <= device.usable_bytes
    )
    on_card = max(0, layers) * layer + beside + (shape.embedding_bytes if whole else 0)
    on_host = (
        (shape.layers - layers) * layer
        + shape.embedding_bytes * (1 if whole else 2)
        + RUNTIME_BYTES
    )
    return layers, on_card, on_host
