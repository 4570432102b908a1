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


@dataclass(frozen=True)
class Shape:
    """What matters of a GGUF: bytes of all tensors, of the token embedding, and the architecture's sizes."""

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

    @staticmethod
    def of(layout: dict[str, Any]) -> Shape:
        """From the layout.json that convert and quantize write."""
        return Shape(**layout["shape"])


def kv_bytes(shape: Shape, context: int, kind: str = "f16") -> float:
    """Bytes of the KV cache at a context length: keys and values of every layer."""
    return 2 * shape.layers * context * shape.kv_heads * shape.head_dim * KV_BYTES[kind]


def compute_bytes(shape: Shape, context: int) -> float:
    """Bytes of the compute buffer: logits and hidden states of one micro-batch, or its attention scores if larger."""
    ubatch = min(UBATCH, context)
    return max((shape.vocabulary + shape.width) * ubatch * 4.0, 1.1 * context * ubatch * shape.heads * 4.0)


def bytes_read(shape: Shape, context: int) -> float:
    """Bytes that decoding one token reads: every weight but an untied embedding's other rows, and half the KV cache."""
    weights = shape.weight_bytes - (0 if shape.tied else shape.embedding_bytes)
    return weights + kv_bytes(shape, context) / 2


def estimate(shape: Shape, device: Hardware, context: int) -> tuple[Measurement, ...]:
    """Device tokens/s and memory with 90 % intervals."""
    seconds = bytes_read(shape, context) / (device.efficiency * device.bandwidth)
    seconds += shape.layers * device.overhead_s_per_layer
    speed, spread = 1 / seconds, device.efficiency_spread
    ram = shape.weight_bytes + kv_bytes(shape, context) + compute_bytes(shape, context) + RUNTIME_BYTES
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
