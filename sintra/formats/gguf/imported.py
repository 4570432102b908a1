"""Take the tensor types of any GGUF over as a recipe's patterns."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sintra.core.errors import UserError
from sintra.core.recipe import FILE_TYPES
from sintra.formats.gguf.header import Header, Malformed, read_gguf_header
from sintra.formats.gguf.sizes import UNQUANTIZED, exact_patterns, mix_patterns

PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
"""Names become regular expressions: one of other letters could mean more than itself."""
LEFT_ALONE = "F32"  # the type of what llama.cpp doesn't quantize: norms, routers


@dataclass(frozen=True)
class ImportedTypes:
    """The types of a file's matrices."""

    type: str  # the file type that goes with the commonest
    tensors: tuple[tuple[str, str], ...]  # (regular expression, tensor type), as a recipe's
    columns: Mapping[int, int]  # row length -> weights of the matrices that have it


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as a GGUF does."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read_types(path: Path) -> ImportedTypes:
    """Read the types of a file's matrices. Raises UserError for a file that has none to take."""
    try:
        header = read_gguf_header(path)
    except Malformed as error:
        raise UserError(str(error)) from None
    types = matrix_types(header)
    if not set(types.values()) - set(UNQUANTIZED):
        raise UserError(f"{path.name} isn't quantized: there are no types to take from it")
    if odd := [name for name in types if not PLAIN_NAME.fullmatch(name)]:
        raise UserError(f"{path.name} has a tensor {odd[0]!r}, which is not a name of llama.cpp's")
    counts = Counter(types.values())
    common = next(kind for kind, _ in counts.most_common() if kind not in UNQUANTIZED)
    whole = set(types.values()).isdisjoint(UNQUANTIZED)
    # what stays in 16 bits has no uniform file that a mix could be put together from
    patterns = mix_patterns(types) if whole else exact_patterns(types)
    columns: Counter[int] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            columns[tensor.shape[0]] += math.prod(tensor.shape)
    return ImportedTypes(FILE_TYPES.get(common, common), patterns, dict(columns))


def matrix_types(header: Header) -> dict[str, str]:
    """Return matrix -> type, of all that llama.cpp could have quantized."""
    from gguf import GGMLQuantizationType  # loads numpy

    types = {
        tensor.name: GGMLQuantizationType(tensor.type).name
        for tensor in header.tensors
        if len(tensor.shape) > 1 and tensor.name.endswith(".weight")
    }
    return {name: kind for name, kind in types.items() if kind != LEFT_ALONE}
