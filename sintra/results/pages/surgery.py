"""Draw a model tensor by tensor, a row for each block and a cell for each tensor: the page of
`doit surgery`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from sintra.results.pages.page import render_template
from sintra.results.pages.tensor_map import TensorCell, TensorFigure, TensorMap

# (upper end of the bits per weight, color), from few bits to many; all are light enough for black
# text (contrast over 7:1) in light and dark.
FILLS = (
    (2.0, "#ff9d8a"),
    (3.0, "#ffbd80"),
    (4.0, "#ffdc82"),
    (5.0, "#e9ec9a"),
    (6.0, "#bfe6b0"),
    (8.0, "#a9dcea"),
    (12.0, "#b9c8f5"),
    (float("inf"), "#dcd0f0"),
)
WIDTH, HEIGHT = 104, 46  # of a cell, pixels
LEFT, TOP = 88, 26  # room for the rows' and the columns' names, pixels
GAP = 4  # between cells, pixels
COLUMN_ORDER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
WORST = 5  # tensors that the terminal names


@dataclass(frozen=True)
class CellDrawing:
    """A tensor's cell: where it is, and what it says."""

    x: int  # left edge, pixels
    y: int  # upper edge, pixels
    type: str  # of ggml, or "dropped"
    note: str  # second line: bits and share
    fill: str  # color, or "none"
    bar: float  # length of the bar that shows the share, pixels
    tooltip: str  # all that is known of the tensor


@dataclass(frozen=True)
class RowDrawing:
    """A block, or a tensor outside all blocks."""

    label: str
    y: int  # upper edge, pixels
    cells: list[CellDrawing]


@dataclass(frozen=True)
class FigureDrawing:
    """A variant with places for its cells, in pixels."""

    title: str  # what the variant is
    figure: TensorFigure
    rows: list[RowDrawing]
    heads: list[tuple[float, str]]  # (middle of a column, kind of tensor)
    width: int
    height: int
    cell_width: int = WIDTH
    cell_height: int = HEIGHT


@dataclass(frozen=True)
class _RowNames:
    """The tensors of a row before they are drawn."""

    label: str
    block: int | None  # None outside all blocks
    tensors: list[str]


def fill_color(bits: float) -> str:
    """Return the color of a number of bits per weight."""
    return next(color for end, color in FILLS if bits < end)


def render_tensor_map(tensors: TensorMap) -> str:
    """Return the page of a tensor map."""
    return render_template(
        "surgery.html",
        figures=draw_figures(tensors),
        legend=bit_legend(),
        has_shares=tensors.has_shares,
        model=tensors.model,
        hardware=tensors.hardware,
        cost=tensors.cost,
        probes=tensors.probes,
        modelled=tensors.modelled,
    )


def draw_figures(tensors: TensorMap) -> list[FigureDrawing]:
    """Draw the winner and, where there is one, the stock preset."""
    titles = ("Winner", "Stock preset")
    return [
        draw_figure(figure, tensors.layers, title)
        for figure, title in zip(tensors.figures, titles, strict=False)
    ]


def bit_legend() -> list[tuple[str, str]]:
    """Return each color and the bits per weight that it stands for."""
    ends = [end for end, _ in FILLS[:-1]]
    words = ["under 2", *(f"{a:g} to {b:g}" for a, b in pairwise(ends)), "12 and more"]
    return list(zip((color for _, color in FILLS), words, strict=True))


def draw_figure(figure: TensorFigure, layers: int, title: str) -> FigureDrawing:
    """Give every cell of a figure its place. layers: blocks of the original."""
    kinds, outside = tensor_columns(figure.matrices)
    row_names = _row_names(kinds, outside, layers)
    largest = max((cell.share or 0.0 for cell in figure.tensors.values()), default=0.0)
    rows = [
        _draw_row(figure, names, TOP + number * (HEIGHT + GAP), largest)
        for number, names in enumerate(row_names)
    ]
    heads = [
        (LEFT + i * (WIDTH + GAP) + WIDTH / 2, kind.removesuffix(".weight"))
        for i, kind in enumerate(kinds)
    ]
    return FigureDrawing(
        title=title,
        figure=figure,
        rows=rows,
        heads=heads,
        width=LEFT + max(len(kinds), 1) * (WIDTH + GAP),
        height=TOP + len(row_names) * (HEIGHT + GAP),
    )


def tensor_columns(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the kinds of tensors inside blocks, in the order of COLUMN_ORDER and then of the file,
    and the names of the tensors outside blocks.
    """
    inside = [m[1] for n in names if (m := re.match(r"blk\.\d+\.(.*)", n))]
    rank = {f"{kind}.weight": i for i, kind in enumerate(COLUMN_ORDER)}
    kinds = sorted(dict.fromkeys(inside), key=lambda kind: rank.get(kind, len(rank)))
    return kinds, [n for n in names if not n.startswith("blk.")]


def _row_names(kinds: list[str], outside: list[str], layers: int) -> list[_RowNames]:
    """Return the embedding's row, a row for each block, and a row for each other tensor."""
    single = {n: _RowNames(n.removesuffix(".weight"), None, [n]) for n in outside}
    first = [n for n in outside if n.startswith("token")]
    return [
        *(single[n] for n in first),
        *(_RowNames(f"block {b}", b, [f"blk.{b}.{k}" for k in kinds]) for b in range(layers)),
        *(single[n] for n in outside if n not in first),
    ]


def _draw_row(figure: TensorFigure, names: _RowNames, y: int, largest: float) -> RowDrawing:
    dropped = names.block in figure.dropped
    cells = [
        draw_cell(
            name,
            None if dropped else figure.tensors.get(name),
            (LEFT + column * (WIDTH + GAP), y),
            largest,
        )
        for column, name in enumerate(names.tensors)
        if name in figure.matrices
    ]
    return RowDrawing(names.label, y, cells)


def draw_cell(
    name: str, cell: TensorCell | None, place: tuple[int, int], largest: float
) -> CellDrawing:
    """Draw a tensor; None stands for one that was left out.

    place: the left upper corner, pixels; largest: the largest share of any tensor, whose bar is
    as wide as the cell.
    """
    x, y = place
    if cell is None:
        return CellDrawing(x, y, "dropped", "", "none", 0.0, f"{name}: left out")
    note = f"{cell.bits:.2f} bits"
    if cell.share is not None:
        note += f", {cell.share:.{1 if cell.share < 0.0995 else 0}%}"
    bar = (WIDTH - 12) * cell.share / largest if cell.share and largest else 0.0
    return CellDrawing(x, y, cell.type, note, fill_color(cell.bits), bar, _tooltip(name, cell))


def _tooltip(name: str, cell: TensorCell) -> str:
    facts = [
        f"{name}: {cell.type}, {cell.bits:.2f} bits per weight, {cell.bytes} bytes, "
        f"{' x '.join(map(str, cell.shape))}"
    ]
    if cell.share is not None:
        facts.append(f"{cell.share:.1%} of the predicted quality loss")
    if cell.error is not None:
        facts.append(f"relative error of its output {cell.error:.2e}")
    return "; ".join(facts)


def format_tensor_map(tensors: TensorMap) -> str:
    """Return a line for each variant and, where the shares are known, one with the tensors that
    most of the quality loss is predicted in.
    """
    lines = [_format_figure(figure) for figure in tensors.figures]
    shares = {n: c.share for n, c in tensors.winner.tensors.items() if c.share is not None}
    if shares:
        worst = sorted(shares, key=lambda name: -shares[name])[:WORST]
        types = {name: tensors.winner.tensors[name].type for name in worst}
        lines.append(
            "most of the predicted quality loss: "
            + ", ".join(f"{n.removesuffix('.weight')} ({types[n]}) {shares[n]:.1%}" for n in worst)
        )
    if tensors.cost:
        lines.append(f"without {tensors.winner.left_out}: {tensors.cost}")
    return "\n".join(lines)


def _format_figure(figure: TensorFigure) -> str:
    kld = f"{figure.kld:.5f} nats" if figure.kld is not None else "not measured"
    return (
        f"{figure.name:<24}{figure.bytes / 1e6:>9.2f} MB of tensors{figure.bits:>7.2f} "
        f"bits per weight  KLD {kld}"
    )
