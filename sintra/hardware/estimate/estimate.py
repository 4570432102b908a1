"""Estimates from arithmetic: speed, memory and load time of a GGUF on a device that isn't here.

Decode: seconds a token = (bytes read + bytes a weight x weights) / (efficiency x bandwidth) +
layers x overhead, fitted on published llama-bench points (sintra/hardware/estimate/fit.py). Prefill:
effective FLOP/s / (2 x weights). Memory: weights + KV cache + compute buffer + runtime. Load: bytes
/ the storage's speed. Sources: docs/guide.md and conf/hardware.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sintra.core.types import Hardware, Measurement
from sintra.hardware.estimate import thermal

RUNTIME_BYTES = 100 * 2**20
UBATCH = 512
# half-width of the 90 % interval of the logarithm of a type's cost, where other types' were
# measured
UNMEASURED = 0.4
KV_BYTES = {"f16": 2.0, "q8_0": 1.0625, "q4_0": 0.5625}


# A byte of the IQ types takes longer than one of the others: 5 to 10 % by Unsloth's measurements.
SLOW = dict.fromkeys(
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), 1.08
)


def slowness(kind: str, k_quant: float = 0.0) -> float:
    """Time to read a byte of a tensor type, over that of ordinary types. k_quant: what K and IQ
    types cost more there.
    """
    slow = SLOW.get(kind, 1.0)
    return slow + k_quant if kind in SLOW or kind.endswith("_K") else slow


def cost(kind: str, device: Hardware) -> float:
    """The same on a device, where its own measurements may have told
    (sintra/hardware/estimate/calibrate.py).
    """
    return device.type_costs.get(kind, slowness(kind, device.k_quant))


@dataclass(frozen=True)
class Shape:
    """What matters of a GGUF: bytes of all tensors, of the token embedding, and the architecture's
    sizes.

    slow_bytes: what slow types add to the bytes that a token reads; k_bytes: those of them that are
    of K and IQ types; types: bytes that a token reads of each tensor type; active: the share of the
    weights that a token uses (experts); window: of `windowed` layers with sliding attention; inner:
    the feed-forward width, 0 where experts have it; bare: layers without attention.
    """

    weight_bytes: int
    embedding_bytes: int
    tied: bool
    parameters: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    slow_bytes: float = 0.0
    k_bytes: float = 0.0
    active: float = 1.0
    window: int = 0
    windowed: int = 0
    types: tuple[tuple[str, int], ...] = ()
    inner: int = 0
    bare: int = 0

    @staticmethod
    def of(layout: Mapping[str, Any]) -> Shape:
        """From the layout.json that convert and quantize write."""
        free = set() if layout["shape"]["tied"] else {"token_embd.weight"}
        slow = sum((slowness(t[1]) - 1) * t[2] for t in layout["tensors"] if t[0] not in free)
        k_bytes = sum(
            t[2] for t in layout["tensors"] if t[0] not in free and slowness(t[1], 1) >= 2
        )
        types: dict[str, int] = {}
        for _, kind, size, *_ in (t for t in layout["tensors"] if t[0] not in free):
            types[kind] = types.get(kind, 0) + size
        inner = max(
            (t[3][0] for t in layout["tensors"] if t[0].endswith(".ffn_down.weight")), default=0
        )
        return Shape(
            **layout["shape"],
            slow_bytes=slow,
            k_bytes=k_bytes,
            types=tuple(sorted(types.items())),
            inner=inner,
        )


def kv_bytes(shape: Shape, context: int, kind: str = "f16") -> float:
    """Bytes of the KV cache at a context length: keys and values of every layer, sliding ones up to
    window + micro-batch.
    """
    short = min(context, shape.window + UBATCH) if shape.windowed else 0
    places = (shape.layers - shape.windowed - shape.bare) * context + shape.windowed * short
    return 2 * places * shape.kv_heads * shape.head_dim * KV_BYTES[kind]


def compute_bytes(shape: Shape, context: int, flash: bool = True) -> float:
    """Bytes of the compute buffer for one micro-batch: logits beside hidden states, or a block's
    feed-forward part (three times its inner width, four times the width) with the attention mask,
    or, without flash attention, the scores if larger.

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
    """Bytes of everything in memory but the weights. llama.cpp takes flash attention by itself
    where the backend has it: surely on a CPU.
    """
    runtime, flash = (
        (device.runtime_bytes, device.backend == "cpu") if device else (RUNTIME_BYTES, False)
    )
    return (
        kv_bytes(shape, context, kv) + compute_bytes(shape, context, flash or kv != "f16") + runtime
    )


def weights_read(shape: Shape) -> float:
    """How many weights decoding one token uses."""
    return (shape.parameters - (0 if shape.tied else shape.vocabulary * shape.width)) * shape.active


def bytes_read(shape: Shape, context: int, kv: str = "f16", k_quant: float = 0.0) -> float:
    """Bytes that decoding one token reads, slow types counted for more: every weight but an untied
    embedding's other rows, and half the KV cache.
    """
    weights = (
        shape.weight_bytes
        - (0 if shape.tied else shape.embedding_bytes)
        + shape.slow_bytes
        + k_quant * shape.k_bytes
    )
    return weights * shape.active + kv_bytes(shape, context, kv) / 2


def decode_seconds(
    shape: Shape, device: Hardware, context: int, kv: str = "f16"
) -> tuple[float, float]:
    """Seconds that a token takes for reading, and for the overhead of its layers."""
    read = bytes_read(shape, context, kv, device.k_quant) + device.bytes_per_weight * weights_read(
        shape
    )
    if device.type_costs:
        read += (
            sum(size * (cost(t, device) - slowness(t, device.k_quant)) for t, size in shape.types)
            * shape.active
        )
    return read / (device.efficiency * device.bandwidth), shape.layers * device.overhead_s_per_layer


def decode_spread(shape: Shape, device: Hardware, context: int, kv: str = "f16") -> float:
    """Half-width of the 90 % interval of log(tokens/s): reading and overhead by their shares of the
    time.
    """
    reading, overhead = decode_seconds(shape, device, context, kv)
    total = reading + overhead
    known = sum(size for t, size in shape.types if t in device.type_costs)
    foreign = (
        1 - known / sum(size for _, size in shape.types)
        if device.type_costs and shape.types
        else 0.0
    )
    return math.hypot(
        reading / total * device.efficiency_spread,
        reading / total * foreign * UNMEASURED,
        overhead / total * device.overhead_spread,
    )


def estimate(
    shape: Shape, device: Hardware, context: int, kv: str = "f16"
) -> tuple[Measurement, ...]:
    """Device tokens/s, memory and load time with 90 % intervals, with a KV cache of a type
    (KV_BYTES).
    """
    speed = 1 / sum(decode_seconds(shape, device, context, kv))
    spread = math.exp(decode_spread(shape, device, context, kv))
    ram = shape.weight_bytes + memory_beside_weights(shape, context, kv, device)
    found = [
        Measurement(
            "device_tg_tps",
            speed,
            "tokens/s",
            "estimated",
            low=speed / spread,
            high=speed * spread,
            where=device.name,
            protocol=f"bytes read / bandwidth at context {context}",
        ),
        Measurement(
            "device_ram_bytes",
            ram,
            "bytes",
            "estimated",
            low=ram - device.runtime_spread,
            high=ram + device.runtime_spread,
            where=device.name,
            protocol=f"weights + KV + compute + runtime at context {context}",
        ),
    ]
    if thermal.complete(device.thermal):
        hot = speed * thermal.sustained(thermal.DEFAULTS | device.thermal)
        found.append(
            Measurement(
                "device_tg_tps_sustained",
                hot,
                "tokens/s",
                "simulated",
                low=hot / spread,
                high=speed * spread,
                where=device.name,
                protocol="heat in equilibrium, simulated",
            )
        )
    if device.flops:
        prefill, wide = (
            device.flops / (2 * shape.parameters * shape.active),
            math.exp(device.flops_spread),
        )
        found.append(
            Measurement(
                "device_pp_tps",
                prefill,
                "tokens/s",
                "estimated",
                low=prefill / wide,
                high=prefill * wide,
                where=device.name,
                protocol="effective FLOP/s / (2 x parameters)",
            )
        )
    if device.storage:
        load = shape.weight_bytes / device.storage
        found.append(
            Measurement(
                "device_load_s",
                load,
                "s",
                "estimated",
                low=load,
                high=2 * load,
                where=device.name,
                protocol="weights / the storage's sequential speed",
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Offload:
    """A model split between a graphics card and its host: layers on the card, bytes on both sides,
    tokens/s with interval.
    """

    layers: int
    device_bytes: float
    host_bytes: float
    tps: float
    low: float
    high: float


# What fitting gave for CPUs as a class (sintra/hardware/estimate/fit.py), for the layers that stay with the
# host; a test compares.
HOST_EFFICIENCY, HOST_SPREAD = 0.55, 0.61


def offload(shape: Shape, device: Hardware, context: int, kv: str = "f16") -> Offload | None:
    """The most layers that fit the card, the rest on the host; None where the device has no host or
    both are too small.

    As llama.cpp's n_gpu_layers: a layer goes with its share of the cache; the output counts as one
    more layer and is the last to go; the token embedding stays with the host.
    """
    if not device.host_bandwidth or shape.layers < 1:
        return None
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
    if layers < 0 or on_host > device.host_usable_bytes:
        return None
    share = max(0, layers) / shape.layers
    reading, overhead = decode_seconds(shape, device, context, kv)
    slow = bytes_read(shape, context, kv) / (HOST_EFFICIENCY * device.host_bandwidth)
    seconds = share * (reading + overhead) + (1 - share) * slow
    part = (1 - share) * slow / seconds
    spread = math.exp(
        math.hypot((1 - part) * decode_spread(shape, device, context, kv), part * HOST_SPREAD)
    )
    return Offload(
        max(0, layers), on_card, on_host, 1 / seconds, 1 / seconds / spread, spread / seconds
    )
