"""The matrices of a model: what each is, how deep it lies, what it costs at every tensor type;
mixes as patterns.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

ALIGNMENT = 32
# What llama.cpp writes instead where a row isn't a multiple of a type's block (llama-quant.cpp,
# tensor_type_fallback).
FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}
OTHERS = "IQ4_NL"


@dataclass(frozen=True)
class Matrix:
    """A tensor that is quantized. kind: its name without the block, as "ffn_down"; block: None
    outside the blocks.
    """

    name: str
    columns: int
    rows: int
    kind: str
    block: int | None

    @property
    def count(self) -> int:
        """Elements."""
        return self.columns * self.rows


def block_size(kind: str) -> tuple[int, int]:
    """Weights and bytes of a block of a tensor type. Raises KeyError for an unknown one."""
    import gguf

    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(weights), int(size)


def written(kind: str, columns: int) -> str:
    """The type that llama.cpp writes when it is asked for one: it falls back where rows aren't
    whole blocks.
    """
    if columns % block_size(kind)[0] == 0:
        return kind
    other = FALLBACK.get(kind, OTHERS)
    return other if columns % block_size(other)[0] == 0 else "F16"


def bytes_of(matrix: Matrix, kind: str) -> int:
    """Bytes of a matrix in the file, its padding included."""
    weights, size = block_size(written(kind, matrix.columns))
    return padded(matrix.count // weights * size)


def padded(size: int) -> int:
    """Up to the next multiple of GGUF's default alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def bits_per_weight(kind: str) -> float:
    """Of a type without fallback."""
    weights, size = block_size(kind)
    return 8 * size / weights


def of_layout(layout: Mapping[str, Any]) -> tuple[Matrix, ...]:
    """The matrices of a quantized file: everything there that isn't in 16 or 32 bits (a 16-bit file
    has none).
    """
    found = []
    for name, kind, _, shape in layout["tensors"]:
        if kind not in ("F32", "F16", "BF16") and len(shape) > 1:
            rows = 1
            for side in shape[1:]:
                rows *= side
            place = re.match(r"blk\.(\d+)\.(.*)\.weight$", name)
            own = place[2] if place else name.removesuffix(".weight")
            found.append(Matrix(name, shape[0], rows, own, int(place[1]) if place else None))
    return tuple(found)


@dataclass(frozen=True)
class Sizes:
    """The size of any mix, to the byte: the matrices, and what a quantized file has beside them
    (rest), of which tensors (norms) are `beside`.
    """

    matrices: tuple[Matrix, ...]
    rest: int
    beside: int

    @staticmethod
    def of(layout: Mapping[str, Any], file_bytes: int) -> Sizes:
        """From one quantized file's layout and size."""
        found = of_layout(layout)
        held = {m.name for m in found}
        beside = sum(t[2] for t in layout["tensors"] if t[0] not in held)
        return Sizes(
            found, file_bytes - sum(padded(t[2]) for t in layout["tensors"] if t[0] in held), beside
        )

    @cached_property
    def by_name(self) -> dict[str, Matrix]:
        """The matrices by their names."""
        return {m.name: m for m in self.matrices}

    def total(self, mix: Mapping[str, str]) -> int:
        """Bytes of the file with these types by tensor name."""
        return self.rest + sum(bytes_of(m, mix[m.name]) for m in self.matrices)


def patterns(mix: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A mix as (regular expression, type) pairs: one for each type and kind of tensor; the last,
    ".*", is the most common.
    """
    common = Counter(mix.values()).most_common(1)[0][0]
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    single = []
    for name, kind in sorted(mix.items()):
        if kind == common:
            continue
        if place := re.match(r"blk\.(\d+)\.(.*)$", name):
            groups[place[2], kind].append(int(place[1]))
        else:
            single.append((f"^{_escaped(name)}$", kind))
    inner = [
        (rf"^blk\.({'|'.join(map(str, sorted(blocks)))})\.{_escaped(rest)}$", kind)
        for (rest, kind), blocks in sorted(groups.items())
    ]
    return (*single, *inner, (".*", common))


def _escaped(name: str) -> str:
    return name.replace(".", r"\.")


def resolved(tensors: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    """Tensor name -> type by the first pattern that matches; names that none matches are left out."""
    pairs = [(re.compile(p), t) for p, t in tensors]
    found = {}
    for name in names:
        kind = next((t for pattern, t in pairs if pattern.search(name)), None)
        if kind is not None:
            found[name] = kind
    return found


# Bits a weight of llama.cpp's presets on Llama-3.1-8B, as its quantize tool's README lists them:
# what to expect, roughly.
PRESET_BITS = {
    "Q8_0": 8.50,
    "Q6_K": 6.56,
    "Q5_K_M": 5.70,
    "Q5_K_S": 5.57,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "IQ4_XS": 4.46,
    "Q3_K_L": 4.30,
    "Q3_K_M": 4.00,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
    "Q4_0": 4.66,
    "Q5_0": 5.61,
}


# The fewest bits that any matrix of such a file has: the base type's block. Other presets are
# bounded by IQ1_S.
BLOCK_BITS = {
    "Q2_K": 2.625,
    "Q3_K_S": 3.4375,
    "Q3_K_M": 3.4375,
    "Q3_K_L": 3.4375,
    "IQ4_XS": 4.25,
    "Q4_0": 4.5,
    "Q4_K_S": 4.5,
    "Q4_K_M": 4.5,
    "Q3_K": 3.4375,
    "Q4_K": 4.5,
    "Q5_K": 5.5,
    "IQ4_NL": 4.5,
    "Q4_1": 5.0,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q5_K_S": 5.5,
    "Q5_K_M": 5.5,
    "Q6_K": 6.5625,
    "Q8_0": 8.5,
}
