"""Compute the size of a model's matrices at every tensor type, and write mixes as patterns.

A mix gives a tensor type to each matrix.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

ALIGNMENT = 32  # bytes; GGUF's default
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
# Tensor type -> weights and bytes of a block, as in the gguf package: what names need on the no-op
# path, which loads no numpy.
BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ1_S": (256, 50),
    "IQ1_M": (256, 56),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98),
    "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
    "NVFP4": (64, 36),
}
OTHER_FALLBACK = "IQ4_NL"  # for all other types
LARGEST_BLOCK = 256  # weights of a block of K- and IQ-quants: rows of multiples take every type
UNQUANTIZED = ("F32", "F16", "BF16")


BLOCK_NAME = re.compile(r"blk\.(\d+)\.(.*)$")  # a block's number, and the name inside the block


@dataclass(frozen=True)
class Matrix:
    """A tensor that is quantized."""

    name: str  # in the GGUF
    columns: int  # elements of a row
    rows: int  # over all experts
    kind: str  # the name without its block, as "ffn_down"
    block: int | None  # None outside the blocks

    @property
    def count(self) -> int:
        """Return the number of elements."""
        return self.columns * self.rows


def block_size(kind: str) -> tuple[int, int]:
    """Return weights and bytes of a block of a tensor type. Raises KeyError for unknown types."""
    if kind in BLOCKS:
        return BLOCKS[kind]
    import gguf  # loads numpy

    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(weights), int(size)


def written_type(kind: str, columns: int) -> str:
    """Return the type that llama.cpp writes when it is asked for `kind`.

    It falls back to another one where rows of so many columns are not whole blocks.
    """
    if columns % block_size(kind)[0] == 0:
        return kind
    other = FALLBACK.get(kind, OTHER_FALLBACK)
    return other if columns % block_size(other)[0] == 0 else "F16"


def matrix_bytes(matrix: Matrix, kind: str) -> int:
    """Return the bytes of a matrix in the file, its padding included."""
    weights, size = block_size(written_type(kind, matrix.columns))
    return padded_size(matrix.count // weights * size)


def padded_size(size: int, alignment: int = ALIGNMENT) -> int:
    """Round bytes up to the next multiple of a GGUF's alignment in bytes, by default GGUF's own."""
    return -(-size // alignment) * alignment


def bits_per_weight(kind: str) -> float:
    """Return the bits per weight of a tensor type, without regard to fallbacks."""
    weights, size = block_size(kind)
    return 8 * size / weights


def matrices_of_layout(layout: Mapping[str, Any]) -> tuple[Matrix, ...]:
    """Return the matrices of a quantized file: all that are not in 16 or 32 bits.

    A 16-bit file has none. layout: a formats.gguf.layout.Layout.
    """
    matrices = []
    for name, kind, _, shape in layout["tensors"]:
        if kind not in UNQUANTIZED and len(shape) > 1:
            stem = name.removesuffix(".weight")
            inside = BLOCK_NAME.match(stem) if stem != name else None
            matrices.append(
                Matrix(
                    name,
                    shape[0],
                    math.prod(shape[1:]),
                    inside[2] if inside else stem,
                    int(inside[1]) if inside else None,
                )
            )
    return tuple(matrices)


@dataclass(frozen=True)
class MixSizes:
    """The file size of any mix, exact to the byte."""

    matrices: tuple[Matrix, ...]
    rest: int  # bytes of the file that are not matrices: header, norms and their padding
    beside: int  # bytes of the other tensors' data (norms); part of `rest`

    @staticmethod
    def of(layout: Mapping[str, Any], file_bytes: int) -> MixSizes:
        """Return the sizes of a model from one quantized file's layout and size."""
        matrices = matrices_of_layout(layout)
        names = {m.name for m in matrices}
        beside = sum(t[2] for t in layout["tensors"] if t[0] not in names)
        quantized = sum(padded_size(t[2]) for t in layout["tensors"] if t[0] in names)
        return MixSizes(matrices, file_bytes - quantized, beside)

    @cached_property
    def by_name(self) -> dict[str, Matrix]:
        """Return the matrices by their names."""
        return {m.name: m for m in self.matrices}

    def total(self, mix: Mapping[str, str]) -> int:
        """Return the bytes of the file with the tensor types of a mix."""
        return self.rest + sum(matrix_bytes(m, mix[m.name]) for m in self.matrices)


def mix_patterns(mix: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Write a mix as (regular expression, type) pairs: one for each type and kind of tensor.

    The last, ".*", stands for the most common type.
    """
    common = Counter(mix.values()).most_common(1)[0][0]
    return (*exact_patterns({n: kind for n, kind in mix.items() if kind != common}), (".*", common))


def exact_patterns(mix: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Write types as (regular expression, type) pairs that match no other tensor."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    single = []
    for name, kind in sorted(mix.items()):
        if inside := BLOCK_NAME.match(name):
            groups[inside[2], kind].append(int(inside[1]))
        else:
            single.append((f"^{_escape_dots(name)}$", kind))
    inner = [
        (rf"^blk\.({'|'.join(map(str, sorted(blocks)))})\.{_escape_dots(rest)}$", kind)
        for (rest, kind), blocks in sorted(groups.items())
    ]
    return (*single, *inner)


def _escape_dots(name: str) -> str:
    return name.replace(".", r"\.")


def resolve_types(patterns: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    """Return tensor name -> type by the first pattern that matches.

    Names that no pattern matches are left out.
    """
    compiled = [(re.compile(pattern), kind) for pattern, kind in patterns]
    types = {}
    for name in names:
        kind = next((kind for pattern, kind in compiled if pattern.search(name)), None)
        if kind is not None:
            types[name] = kind
    return types


# Bits per weight of llama.cpp's presets on Llama-3.1-8B, as its quantize tool's README lists them:
# a rough expectation for other models.
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


# What rounding to nearest does to normally distributed weights: the error's share of their square,
# measured with ggml's own quantizers (rows of 2048, no importance matrix but for IQ types).
NEAREST_ERROR = {
    "Q2_K": 8.83e-2,
    "Q3_K": 2.28e-2,
    "Q4_K": 5.10e-3,
    "Q5_K": 1.31e-3,
    "Q6_K": 3.15e-4,
    "Q4_0": 7.39e-3,
    "Q4_1": 6.12e-3,
    "Q5_0": 1.83e-3,
    "Q5_1": 1.44e-3,
    "Q8_0": 2.88e-5,
    "IQ4_NL": 5.62e-3,
    "IQ4_XS": 5.72e-3,
    "IQ3_S": 1.89e-2,
    "IQ3_XXS": 3.32e-2,
    "IQ2_S": 6.22e-2,
    "IQ2_XS": 9.00e-2,
    "IQ2_XXS": 1.18e-1,
    "MXFP4": 1.33e-2,
    "NVFP4": 9.05e-3,
    "F16": 0.0,
}


# The fewest bits per weight that any matrix of such a file has: the base type's block. Other
# presets are bounded by IQ1_S.
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
