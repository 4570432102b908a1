"""Types of the KV cache: one for keys and values, or a pair such as q8_0/q5_1, keys first."""

from __future__ import annotations

from collections.abc import Iterable

from sintra.core.errors import UserError, nearest

PLAIN = "f16"
# bytes per element: blocks of 32 with a scale (q5_1: and a minimum) in front
KV_TYPES = {"f16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q4_0": 18 / 32}


def is_kv(text: object) -> bool:
    """Return whether a text names the type of a KV cache as recipes do: equal types once."""
    if not isinstance(text, str) or text.count("/") > 1:
        return False
    keys, _, values = text.partition("/")
    return keys in KV_TYPES and (values in KV_TYPES if "/" in text else True) and keys != values


def kv_pair(kv: str) -> tuple[str, str]:
    """Return the types of keys and values."""
    keys, _, values = kv.partition("/")
    return keys, values or keys


def kv_element_bytes(kv: str) -> float:
    """Return the bytes of a cached element, the mean of keys and values."""
    keys, values = kv_pair(kv)
    return (KV_TYPES[keys] + KV_TYPES[values]) / 2


def kv_arguments(kv: str) -> list[str]:
    """Return the arguments of llama.cpp's programs; none where the cache is the usual one.

    Quantized values need flash attention.
    """
    if kv == PLAIN:
        return []
    keys, values = kv_pair(kv)
    return ["--cache-type-k", keys, "--cache-type-v", values, "--flash-attn", "on"]


def checked_kv(names: Iterable[str]) -> tuple[str, ...]:
    """Return the types of planner.kv, a pair of equal ones as one, each once.

    Raises UserError for an unknown type.
    """
    chosen = [one_name(name) for name in names] or [PLAIN]
    return tuple(dict.fromkeys(chosen))


def one_name(name: str) -> str:
    """Return a type as recipes name it. Raises UserError for an unknown one."""
    keys, values = kv_pair(name)
    kv = keys if keys == values else f"{keys}/{values}"
    if is_kv(kv) and not name.endswith("/"):
        return kv
    wrong = next((part for part in (keys, values) if part not in KV_TYPES), name)
    raise UserError(
        f"planner.kv has {name!r}: {nearest(wrong, KV_TYPES)}; keys and values apart are written "
        "q8_0/q5_1"
    )
