"""Compute the bits per weight of a mix: from its types alone, so before and after it is made."""

from __future__ import annotations

import math
from functools import lru_cache

from sintra.core.recipe import Recipe
from sintra.formats.gguf.attention import is_attention
from sintra.formats.gguf.layout import Layout
from sintra.formats.gguf.sizes import block_size, resolve_types, written_type
from sintra.formats.gguf.tensor_names import renumber_tensor

KEPT = ("ffn_gate_inp", "conv1d", "position_embd", "token_types")  # llama.cpp quantizes none

Tensor = tuple[str, str, tuple[int, ...]]  # name, type, shape
Tensors = tuple[Tensor, ...]


def tensors_of(layout: Layout) -> Tensors:
    """Return the tensors of a model's 16-bit GGUF, as `mix_bits` takes them."""
    return tuple((name, kind, tuple(shape)) for name, kind, _, shape in layout["tensors"])


@lru_cache(maxsize=4096)
def mix_bits(recipe: Recipe, tensors: Tensors) -> float:
    """Return the bits per weight of all tensors of a mix, as llama.cpp prints them (BPW).

    tensors: of the 16-bit model. Raises KeyError for a tensor type that ggml doesn't have.
    """
    left = {
        new: (kind, shape)
        for name, kind, shape in tensors
        if not is_attention(name, recipe.no_attention)
        and (new := renumber_tensor(name, list(recipe.drop)))
    }
    matrices = [name for name, (_, shape) in left.items() if is_quantized(name, shape)]
    types = resolve_types(recipe.tensors, matrices)
    size = sum(tensor_bytes(types.get(name, kind), shape) for name, (kind, shape) in left.items())
    return 8 * size / max(1, sum(math.prod(shape) for _, shape in left.values()))


def is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether llama.cpp quantizes a tensor."""
    return len(shape) > 1 and not any(word in name for word in KEPT)


def tensor_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor's data in a type, or in what is written instead of it."""
    weights, size = block_size(written_type(kind, shape[0]))
    return math.prod(shape) // weights * size
