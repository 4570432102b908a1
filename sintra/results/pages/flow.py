"""A study's graph by stages, as it stands: a node a stage, inputs to the left."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 132, 50, 44, 16, 6


def placed(progress: Row) -> Row:
    """{"nodes", "lines", "width", "height"} in pixels; a node has its counts, the length of its bar
    and a sentence.
    """
    columns: dict[int, list[Row]] = {}
    for node in progress["stages"]:
        columns.setdefault(node["depth"], []).append(node)
    tall = max((len(c) for c in columns.values()), default=1)
    nodes: dict[str, Row] = {}
    for number, depth in enumerate(sorted(columns)):
        own = columns[depth]
        top = EDGE + (tall - len(own)) * (HEIGHT + DOWN) / 2
        for i, node in enumerate(own):
            share = (node["done"] + node["failed"]) / node["total"]
            nodes[node["stage"]] = node | {
                "x": EDGE + number * (WIDTH + ACROSS),
                "y": top + i * (HEIGHT + DOWN),
                "bar": round(share * (WIDTH - 24), 1),
                "say": said(node),
                "state": "now" if node["building"] else "done" if share == 1 else "open",
            }
    lines = [
        curve(nodes[a], nodes[b]) for a, b in progress["edges"] if nodes[a]["x"] < nodes[b]["x"]
    ]
    size = {
        "width": 2 * EDGE + len(columns) * (WIDTH + ACROSS) - ACROSS,
        "height": 2 * EDGE + tall * (HEIGHT + DOWN) - DOWN,
    }
    return {"nodes": list(nodes.values()), "lines": lines, "w": WIDTH, "h": HEIGHT} | size


def said(node: Row) -> str:
    """A node in words."""
    more = "".join(f", {node[k]} {k}" for k in ("building", "failed") if node[k])
    return f"{node['stage']}: {node['done']} of {node['total']} there{more}"


def curve(one: Row, two: Row) -> str:
    """An SVG path from a node's right side to another's left."""
    x, y, u, v = one["x"] + WIDTH, one["y"] + HEIGHT / 2, two["x"], two["y"] + HEIGHT / 2
    bend = max(20.0, (u - x) / 2)
    return f"M{x:g} {y:g} C{x + bend:g} {y:g} {u - bend:g} {v:g} {u:g} {v:g}"
