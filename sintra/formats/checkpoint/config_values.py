"""Check what config.json holds before it is calculated with: kinds of values, and their ranges."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sintra.core.errors import UserError

# Whole numbers and what they can be at all; null where the architecture goes without.
RANGES = {
    "hidden_size": (1, 1 << 20),
    "num_hidden_layers": (1, 1024),
    "num_attention_heads": (1, 1 << 16),
    "num_key_value_heads": (1, 1 << 16),
    "head_dim": (1, 1 << 16),
    "vocab_size": (1, 1 << 24),
    "intermediate_size": (1, 1 << 24),
    "max_position_embeddings": (1, 1 << 31),
    "sliding_window": (0, 1 << 31),
    "sliding_window_pattern": (1, 1024),
    "num_local_experts": (0, 1 << 12),
    "num_experts": (0, 1 << 12),
    "num_experts_per_tok": (0, 1 << 12),
    "moe_intermediate_size": (1, 1 << 24),
    "shared_expert_intermediate_size": (0, 1 << 24),
    "n_embd": (1, 1 << 20),
    "n_layer": (1, 1024),
    "n_head": (1, 1 << 16),
    "n_positions": (1, 1 << 31),
}
KINDS: dict[str, type] = {
    "model_type": str,
    "tie_word_embeddings": bool,
    "use_sliding_window": bool,
    "attention_bias": bool,
    "architectures": list,
    "layer_types": list,
    "text_config": dict,
    "vision_config": dict,
    "audio_config": dict,
    "rope_scaling": dict,
    "rope_parameters": dict,
    "quantization_config": dict,
}
WORDS = {str: "a text", bool: "true or false", list: "a list of texts", dict: "an object"}


def check_values(path: Path, config: Mapping[str, Any]) -> None:
    """Check the values of a config.json and of the part for the language model.

    Raises UserError with file, key and value.
    """
    _check(path, "", config)
    if isinstance(text := config.get("text_config"), dict):
        _check(path, "text_config.", text)


def _check(path: Path, part: str, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if value is None:
            continue
        if key in RANGES and (fault := _number_fault(value, *RANGES[key])):
            raise UserError(f"{path}: {part}{key} is {reprlib.repr(value)}: {fault}")
        if key in KINDS and not _is_kind(value, KINDS[key]):
            raise UserError(
                f"{path}: {part}{key} is {reprlib.repr(value)}, not {WORDS[KINDS[key]]}"
            )


def _number_fault(value: object, least: int, most: int) -> str:
    """Return what is wrong with a number, or with a list of one for each layer; "" for nothing."""
    numbers: list[Any] = value if isinstance(value, list) else [value]
    if not numbers or any(type(n) is not int for n in numbers):
        return "a whole number is needed"
    if not all(least <= n <= most for n in numbers):
        return f"it can be from {least} to {most}"
    return ""


def _is_kind(value: object, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, kind)


def whole(config: Mapping[str, Any], key: str, default: int = 0) -> int:
    """Return a checked whole number, of a list with one for each layer the largest."""
    value = config.get(key)
    if value is None:
        return default
    return int(max(value) if isinstance(value, list) else value)


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part of a config.json; all of it where it is that alone."""
    part = config.get("text_config")
    return part if isinstance(part, dict) and part else config


def trained_context(config: Mapping[str, Any]) -> int:
    """Return the context that a config.json's model was trained for, tokens; 0 where not said."""
    return whole(text_part(config), "max_position_embeddings")


def sliding_window(text: Mapping[str, Any]) -> int:
    """Return the length of sliding attention in tokens; 0 where there is none."""
    return 0 if text.get("use_sliding_window") is False else whole(text, "sliding_window")


class RopeScaling(NamedTuple):
    """What a config.json says of its rope."""

    kind: str  # "default" for none
    before: int | None  # context before it was scaled, tokens; None where that isn't said


def rope_scalings(text: Mapping[str, Any]) -> Iterator[RopeScaling]:
    """Yield what is said of the rope, under transformers 4's name and 5's."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = text.get(key)
        if isinstance(rope, dict):
            before = rope.get("original_max_position_embeddings")
            kind = rope.get("rope_type") or rope.get("type") or "default"
            yield RopeScaling(str(kind)[:40], before if isinstance(before, int) else None)
