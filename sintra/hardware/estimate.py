"""Estimates from arithmetic: decode and prefill speed and memory of a GGUF on a device that isn't here.

Decode: 1 / (tokens/s) = bytes read a token / (efficiency x bandwidth) + layers x overhead. Memory: weights + KV cache +
compute buffer + runtime. Fitted on published llama-bench points; the sources stand in docs/guide.md and conf/hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sintra.types import Hardware, Measurement

RUNTIME_BYTES = 100 * 2**20
RUNTIME_SPREAD = 50 * 2**20
UBATCH = 512
KV_BYTES = {"f16": 2.0, "q8_0": 1.0625, "q4_0": 0.5625}


# A byte of the IQ types takes longer than one of the others: 5 to 10 % by Unsloth's measurements.
SLOW = dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), 1.08)


def slowness(kind: str) -> float:
    """Time to read a byte of a tensor type, over that of ordinary types."""
    return SLOW.get(kind, 1.0)


@dataclass(frozen=True)
class Shape:
    """What matters of a GGUF: bytes of all tensors, of the token embedding, and the architecture's sizes.

    slow_bytes: what slow types add to the bytes that a token reads.
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

    @staticmethod
    def of(layout: dict[str, Any]) -> Shape:
        """From the layout.json that convert and quantize write."""
        free = set() if layout["shape"]["tied"] else {"token_embd.weight"}
        slow = sum((slowness(t[1]) - 1) * t[2] for t in layout["tensors"] if t[0] not in free)
        return Shape(**layout["shape"], slow_bytes=slow)


def kv_bytes(shape: Shape, context: int, kind: str = "f16") -> float:
    """Bytes of the KV cache at a context length: keys and values of every layer."""
    return 2 * shape.layers * context * shape.kv_heads * shape.head_dim * KV_BYTES[kind]


def compute_bytes(shape: Shape, context: int) -> float:
    """Bytes of the compute buffer: logits and hidden states of one micro-batch, or its attention scores if larger."""
    ubatch = min(UBATCH, context)
    return max((shape.vocabulary + shape.width) * ubatch * 4.0, 1.1 * context * ubatch * shape.heads * 4.0)


def memory_beside_weights(shape: Shape, context: int, kv: str = "f16") -> float:
    """Bytes of everything in memory but the weights."""
    return kv_bytes(shape, context, kv) + compute_bytes(shape, context) + RUNTIME_BYTES


def bytes_read(shape: Shape, context: int, kv: str = "f16") -> float:
    """Bytes that decoding one token reads, slow types counted for more: every weight but an untied embedding's other rows,
    and half the KV cache."""
    weights = shape.weight_bytes - (0 if shape.tied else shape.embedding_bytes) + shape.slow_bytes
    return weights + kv_bytes(shape, context, kv) / 2


def estimate(shape: Shape, device: Hardware, context: int, kv: str = "f16") -> tuple[Measurement, ...]:
    """Device tokens/s and memory with 90 % intervals, with a KV cache of a type (KV_BYTES)."""
    seconds = bytes_read(shape, context, kv) / (device.efficiency * device.bandwidth)
    seconds += shape.layers * device.overhead_s_per_layer
    speed, spread = 1 / seconds, device.efficiency_spread
    ram = shape.weight_bytes + memory_beside_weights(shape, context, kv)
    found = [
        Measurement("device_tg_tps", speed, "tokens/s", "estimated", low=speed * (1 - spread), high=speed * (1 + spread),
                    where=device.name, protocol=f"bytes read / bandwidth at context {context}"),
        Measurement("device_ram_bytes", ram, "bytes", "estimated", low=ram - RUNTIME_SPREAD, high=ram + RUNTIME_SPREAD,
                    where=device.name, protocol=f"weights + KV + compute + runtime at context {context}"),
    ]  # fmt: skip
    if device.flops:
        prefill = device.flops / (2 * shape.parameters)
        found.append(Measurement("device_pp_tps", prefill, "tokens/s", "estimated", low=prefill * 0.5, high=prefill * 1.5,
                                 where=device.name, protocol="effective FLOP/s / (2 x parameters)"))  # fmt: skip
    return tuple(found)
