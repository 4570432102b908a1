"""How much an equal relative error matters, tensor by tensor, before anything is measured."""

from __future__ import annotations

from sintra.matrices import Matrix

# From llama.cpp's pull request 15550 (EAddario), found by trial there.
BOOST = {"ffn_down": 6.0, "attn_v": 1.25, "output": 3.0}
TIED = 2.5


def weight(matrix: Matrix, tied: bool) -> float:
    """Rows, boosted for the classes that are known to matter more. tied: whether the embedding is
    the output too.
    """
    boost = TIED if tied and matrix.kind == "token_embd" else BOOST.get(matrix.kind, 1.0)
    return boost * matrix.rows
