"""What attention costs with a filled cache: bytes that a token reads, and FLOP that it takes.

The cache grows while an answer is written: speed is estimated at the mean of an answer of ANSWER
tokens, which begins with `depth` tokens in the cache. On GPUs a cached element is read like a
weight. On CPUs it also takes arithmetic, once for each query head that shares it: on a Xeon at 2.5
GHz a byte of the cache cost 1.43 and 1.13 times a weight's for each of them, by the fits to two
models (docs/device.md).
"""

from __future__ import annotations

from typing import Protocol

from sintra.core.kv_cache import KV_TYPES, PLAIN, kv_element_bytes
from sintra.core.types import Hardware

ANSWER = 512  # tokens of the answer that a speed is estimated for
# Of a cached byte at float16 and for one query head, over a weight's byte; on CPUs that were not
# calibrated. One processor was measured: the interval is wide.
CPU_ATTENTION, CPU_ATTENTION_SPREAD = 1.2, 0.7


class Cached(Protocol):
    """What attention needs of a model's shape (estimate.Shape)."""

    @property
    def layers(self) -> int:
        """Return the blocks."""

    @property
    def bare(self) -> int:
        """Return the blocks without attention."""

    @property
    def window(self) -> int:
        """Return the length of sliding attention, tokens; 0 where there is none."""

    @property
    def windowed(self) -> int:
        """Return the blocks with sliding attention."""

    @property
    def heads(self) -> int:
        """Return the attention heads of a block."""

    @property
    def kv_heads(self) -> int:
        """Return the heads that have keys and values of their own."""

    @property
    def head_dim(self) -> int:
        """Return the elements of a head."""


def mean_cached(context: int, depth: int) -> float:
    """Return the mean tokens in the cache while an answer is written, `depth` being there before.

    context: the cache's size, tokens.
    """
    return depth + max(0, min(context - depth, ANSWER)) / 2


def cached_elements(shape: Cached, tokens: float, held: float | None = None) -> float:
    """Return the elements of keys and values of so many tokens.

    held: the most tokens that sliding layers keep; None: the window.
    """
    sliding = min(tokens, shape.window if held is None else held) if shape.windowed else 0
    whole = shape.layers - shape.windowed - shape.bare
    return 2 * (whole * tokens + shape.windowed * sliding) * shape.kv_heads * shape.head_dim


def cache_read(shape: Cached, device: Hardware, tokens: float, kv: str) -> float:
    """Return what reading and multiplying the cache of so many tokens costs, for one new token.

    In bytes of weights of ordinary types.
    """
    shared = shape.heads / max(1, shape.kv_heads)
    cost = max(kv_element_bytes(kv), KV_TYPES[PLAIN] * attention_cost(device) * shared)
    return cached_elements(shape, tokens) * cost


def attention_cost(device: Hardware) -> float:
    """Return a cached byte's cost for a query head, over a weight's; 0 where it is only read."""
    if device.attention:
        return device.attention
    return CPU_ATTENTION if device.backend == "cpu" else 0.0


def attention_spread(device: Hardware) -> float:
    """Return the half-width of the 90 % interval of the logarithm of `attention_cost`."""
    return CPU_ATTENTION_SPREAD if device.backend == "cpu" and not device.attention else 0.0


def attention_flops(shape: Cached, tokens: float) -> float:
    """Return the FLOP of attention for one token with so many in the cache: scores and sums."""
    shared = shape.heads / max(1, shape.kv_heads)
    return 2 * cached_elements(shape, tokens) * shared
