"""Tensors that are probed together: a class of tensors in a bin of depths."""

from __future__ import annotations

from collections.abc import Sequence

from sintra.formats.gguf.sizes import Matrix


def block_classes(matrices: Sequence[Matrix]) -> list[str]:
    """Return the classes of the matrices inside the blocks, sorted."""
    return sorted({m.kind for m in matrices if m.block is not None})


def depth_bins(matrices: Sequence[Matrix], max_groups: int) -> int:
    """Return the number of depth bins that makes at most `max_groups` groups.

    At least one, and at most one per block.
    """
    inside = len(block_classes(matrices))
    outside = sum(m.block is None for m in matrices)
    blocks = len({m.block for m in matrices} - {None})
    return max(1, min(blocks, (max_groups - outside) // max(1, inside)))


def group_tensors(matrices: Sequence[Matrix], bins: int) -> dict[str, str]:
    """Return tensor name -> group, such as "ffn_down/1" for a class in the second depth bin.

    Tensors outside the blocks are groups of their own. Class and depth explain 84 % of the spread
    of log sensitivities with four bins on Qwen3-4B (Thireus' published per-tensor data).
    """
    blocks = sorted({m.block for m in matrices if m.block is not None})
    bin_of = {block: i * bins // len(blocks) for i, block in enumerate(blocks)}
    return {m.name: m.kind if m.block is None else f"{m.kind}/{bin_of[m.block]}" for m in matrices}


PARTS = {2: "half", 3: "third", 4: "quarter"}  # number of bins of depths -> what one is
ORDINALS = ("first", "second", "third", "fourth")


def group_words(group: str, groups: Sequence[str]) -> str:
    """Return a group in words: "ffn_down/1" of two depths is `ffn_down, second half`.

    groups: the names of all groups.
    """
    kind, _, depth = group.partition("/")
    bins = sum(other.partition("/")[0] == kind for other in groups)
    if not depth or bins < 2:
        return kind
    if bins in PARTS:
        return f"{kind}, {ORDINALS[int(depth)]} {PARTS[bins]}"
    return f"{kind}, depth {int(depth) + 1} of {bins}"


# Factors on the error of a class, from llama.cpp's pull request 15550 (EAddario), where they were
# set by trial.
CLASS_BOOST = {"ffn_down": 6.0, "attn_v": 1.25, "output": 3.0}
TIED_EMBEDDING_BOOST = 2.5


def class_weight(matrix: Matrix, tied: bool) -> float:
    """Return a matrix's number of rows, boosted for the classes that are known to matter more.

    tied: whether the embedding is the output matrix too.
    """
    if tied and matrix.kind == "token_embd":
        return TIED_EMBEDDING_BOOST * matrix.rows
    return CLASS_BOOST.get(matrix.kind, 1.0) * matrix.rows
