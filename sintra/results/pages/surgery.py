"""The model as a picture: a row a block, a cell a tensor."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from sintra.results.pages.page import render

# Fills from few bits to many, all light enough for black text (contrast over 7:1) in light and
# dark.
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
WIDTH, HEIGHT, LEFT, TOP, GAP = 104, 46, 88, 26, 4


def fill(bits: float) -> str:
    """The colour of a number of bits a weight."""
    return next(colour for most, colour in FILLS if bits < most)


def page(found: dict[str, Any]) -> str:
    """The page of what `sintra.results.pages.tensor_map` knows."""
    return render(
        "surgery.html",
        figures=figures(found),
        legend=legend(),
        known=known(found),
        **{k: found[k] for k in ("model", "hardware", "cost", "probes", "modelled")},
    )


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The winner's picture, and the stock preset's where there is one."""
    made = [drawn(found["winner"], found["layers"], "Winner")]
    return (
        [*made, drawn(found["stock"], found["layers"], "Stock preset")] if found["stock"] else made
    )


def legend() -> list[tuple[str, str]]:
    """Colours and the bits a weight that they stand for."""
    ends = [2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0]
    words = ["under 2", *(f"{a:g} to {b:g}" for a, b in pairwise(ends)), "12 and more"]
    return list(zip((c for _, c in FILLS), words, strict=True))


def known(found: dict[str, Any]) -> bool:
    """Whether shares of the damage are known."""
    return any(c["share"] is not None for c in found["winner"]["tensors"].values())


def drawn(figure: dict[str, Any], layers: int, title: str) -> dict[str, Any]:
    """A figure with places for its cells, in pixels."""
    kinds, outside = columns(figure["whole"])
    first = [n for n in outside if n.startswith("token")]
    lines: list[tuple[str, int | None, list[str]]] = [
        (n.removesuffix(".weight"), None, [n]) for n in first
    ]
    lines += [(f"block {b}", b, [f"blk.{b}.{k}" for k in kinds]) for b in range(layers)]
    lines += [(n.removesuffix(".weight"), None, [n]) for n in outside if n not in first]
    most = max((c["share"] or 0.0 for c in figure["tensors"].values()), default=0.0)
    rows = []
    for number, (label, block, names) in enumerate(lines):
        y = TOP + number * (HEIGHT + GAP)
        dropped = block in figure["dropped"]
        cells = [
            placed(figure, name, i, y, most, dropped)
            for i, name in enumerate(names)
            if name in figure["whole"]
        ]
        rows.append({"label": label, "y": y, "dropped": dropped, "cells": cells})
    heads = [
        (LEFT + i * (WIDTH + GAP) + WIDTH / 2, k.removesuffix(".weight"))
        for i, k in enumerate(kinds)
    ]
    return figure | {
        "title": title,
        "rows": rows,
        "heads": heads,
        "width": LEFT + max(len(kinds), 1) * (WIDTH + GAP),
        "height": TOP + len(lines) * (HEIGHT + GAP),
        "left": LEFT,
        "w": WIDTH,
        "h": HEIGHT,
    }


def columns(names: list[str]) -> tuple[list[str], list[str]]:
    """The kinds of tensors inside blocks, in the order of the file's first block, and the names
    outside them.
    """
    inside = [m[1] for n in names if (m := re.match(r"blk\.\d+\.(.*)", n))]
    order = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    rank = {f"{k}.weight": i for i, k in enumerate(order)}
    return sorted(dict.fromkeys(inside), key=lambda k: rank.get(k, len(rank))), [
        n for n in names if not n.startswith("blk.")
    ]


def placed(
    figure: dict[str, Any], name: str, column: int, y: int, most: float, dropped: bool
) -> dict[str, Any]:
    """A cell: where it is, what it says, and all that is known in its title."""
    place = {"x": LEFT + column * (WIDTH + GAP), "y": y}
    c = figure["tensors"].get(name)
    if dropped or c is None:
        return place | {
            "type": "dropped",
            "note": "",
            "fill": "none",
            "bar": 0.0,
            "said": f"{name}: left out",
        }
    known = [
        (
            f"{name}: {c['type']}, {c['bits']:.2f} bits a weight, {c['bytes']} bytes, "
            f"{' x '.join(map(str, c['shape']))}"
        )
    ]
    known += [f"{c['share']:.1%} of the damage foreseen"] if c["share"] is not None else []
    known += [f"relative error of its output {c['error']:.2e}"] if c["error"] is not None else []
    share = c["share"]
    note = f"{c['bits']:.2f} bits" + (
        f", {share:.{1 if share < 0.0995 else 0}%}" if share is not None else ""
    )
    bar = (WIDTH - 12) * c["share"] / most if c["share"] and most else 0.0
    return place | {
        "type": c["type"],
        "note": note,
        "fill": fill(c["bits"]),
        "bar": bar,
        "said": "; ".join(known),
    }


def text(found: dict[str, Any]) -> str:
    """In a terminal: a line for each variant and, where known, the tensors that most of the damage
    is foreseen in.
    """
    lines = [line(f) for f in (found["winner"], found["stock"]) if f]
    cells = found["winner"]["tensors"]
    worst = sorted(
        (n for n in cells if cells[n]["share"] is not None), key=lambda n: -cells[n]["share"]
    )[:5]
    if worst:
        lines.append(
            "most of the foreseen damage: "
            + ", ".join(
                f"{n.removesuffix('.weight')} ({cells[n]['type']}) {cells[n]['share']:.1%}"
                for n in worst
            )
        )
    if found["cost"]:
        lines.append(f"without {found['winner']['left_out']}: {found['cost']}")
    return "\n".join(lines)


def line(figure: dict[str, Any]) -> str:
    """A variant in a line."""
    kld = f"{figure['kld']:.5f} nats" if figure["kld"] is not None else "not measured"
    return (
        f"{figure['name']:<24}{figure['bytes'] / 1e6:>9.2f} MB of tensors{figure['bits']:>7.2f} "
        f"bits a weight  KLD {kld}"
    )
