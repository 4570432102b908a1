"""What a user's own GGUF holds: whether it can be what a study starts from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sintra.core.errors import UserError
from sintra.formats.gguf import header
from sintra.formats.gguf.layout import Layout
from sintra.formats.gguf.sizes import UNQUANTIZED


def quantized_type(layout: Layout) -> str | None:
    """Return the type that most bytes of quantized tensors have; None where there are none."""
    return most_bytes((kind, size) for _, kind, size, _ in layout["tensors"])


def most_bytes(sizes: Iterable[tuple[str, int]]) -> str | None:
    """Return the quantized type that most bytes have, of (type, bytes) pairs; None for none."""
    total: dict[str, int] = {}
    for kind, size in sizes:
        if kind not in UNQUANTIZED:
            total[kind] = total.get(kind, 0) + size
    return max(total, key=lambda kind: total[kind], default=None)


def read_quantized_type(path: Path) -> str | None:
    """Return a file's quantized type, from its header.

    Raises UserError where it is missing or no sound GGUF of a model.
    """
    from gguf import GGMLQuantizationType  # not on the no-op path: what it says is remembered

    try:
        head = header.read_gguf_header(path)
    except OSError:
        raise UserError(f"there is no file {str(path)!r}") from None
    except header.Malformed as error:
        raise UserError(str(error)) from None
    if "general.architecture" not in head.metadata or not head.tensors:
        raise UserError(f"{path.name} holds no model: a vocabulary, an adapter or a projector?")
    return most_bytes((GGMLQuantizationType(t.type).name, t.size) for t in head.tensors)
