"""What a GGUF really holds: tensor types and sizes, and the architecture's shape, read back from
its header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.formats.gguf import header


def read_layout(path: Path) -> dict[str, Any]:
    """{"architecture", "shape": fields of hardware.estimate.Shape, "context", "tensors": [[name,
    type, bytes, shape]]}.

    Tensor shapes are GGUF's: the row length first. Bytes are those of the data, without the header.
    """
    reader = header.reader(path)
    arch = _value(reader, "general.architecture")

    def number(name: str, default: int | None = None) -> int:
        value = _value(reader, f"{arch}.{name}")
        if value is None and default is None:
            raise ValueError(f"{path.name} lacks {arch}.{name}")
        if value is None:
            return int(default or 0)
        return int(max(value) if isinstance(value, list) else value)

    tensors: list[list[Any]] = [
        [t.name, t.tensor_type.name, int(t.n_bytes), [int(n) for n in t.shape]]
        for t in reader.tensors
    ]
    by_name = {t[0]: t for t in tensors}
    heads, width = number("attention.head_count"), number("embedding_length")
    embedding = by_name["token_embd.weight"]
    if len(embedding[3]) != 2:
        raise ValueError(
            f"{path.name}: token_embd.weight has {len(embedding[3])} sides, a matrix is wanted"
        )
    shape = {
        "weight_bytes": sum(t[2] for t in tensors),
        "embedding_bytes": embedding[2],
        "tied": "output.weight" not in by_name,
        "parameters": sum(_elements(t[3]) for t in tensors),
        "layers": number("block_count"),
        "width": width,
        "heads": heads,
        "kv_heads": number("attention.head_count_kv", heads),
        "head_dim": number("attention.key_length", width // max(1, heads)),
        "vocabulary": embedding[3][1],
    }
    kept = _value(reader, f"{arch}.attention.head_count_kv")
    if isinstance(kept, list) and 0 in kept:
        shape["bare"] = kept.count(0)
    return {
        "architecture": arch,
        "shape": shape,
        "context": number("context_length", 0),
        "tensors": tensors,
    }


def _elements(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _value(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()
