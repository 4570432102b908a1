"""Draw a study's graph by stages: a node for each stage, its inputs to the left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WIDTH, HEIGHT = 132, 50  # of a node, pixels
COLUMN_GAP, ROW_GAP = 44, 16  # between nodes, pixels
MARGIN = 6  # around the drawing, pixels


@dataclass(frozen=True)
class StageProgress:
    """The steps of one stage, counted by their state."""

    stage: str
    depth: int  # column in the graph; inputs have smaller ones
    total: int  # steps of the stage
    done: int
    failed: int
    building: int


@dataclass(frozen=True)
class FlowNode:
    """A stage's box in the drawing, in pixels."""

    stage: str
    x: float  # left edge
    y: float  # upper edge
    bar: float  # length of the progress bar
    count: str  # steps that are done and steps in all, as "3/5"
    sentence: str  # the counts in words, for screen readers and as a tooltip
    state: str  # "now", "done" or "open"


@dataclass(frozen=True)
class FlowDrawing:
    """All that the SVG needs, in pixels."""

    nodes: list[FlowNode]
    edges: list[str]  # SVG paths
    width: int
    height: int
    node_width: int = WIDTH
    node_height: int = HEIGHT


def draw_flow(stages: list[StageProgress], edges: Iterable[tuple[str, str]]) -> FlowDrawing:
    """Place the stages in columns by their depth. edges: pairs of (input, stage that needs it)."""
    columns: dict[int, list[StageProgress]] = {}
    for stage in stages:
        columns.setdefault(stage.depth, []).append(stage)
    rows = max((len(column) for column in columns.values()), default=1)
    nodes: dict[str, FlowNode] = {}
    for number, depth in enumerate(sorted(columns)):
        x = MARGIN + number * (WIDTH + COLUMN_GAP)
        top = MARGIN + (rows - len(columns[depth])) * (HEIGHT + ROW_GAP) / 2
        for i, stage in enumerate(columns[depth]):
            nodes[stage.stage] = _node(stage, x, top + i * (HEIGHT + ROW_GAP))
    return FlowDrawing(
        nodes=list(nodes.values()),
        edges=[_edge_path(nodes[a], nodes[b]) for a, b in edges if nodes[a].x < nodes[b].x],
        width=2 * MARGIN + len(columns) * (WIDTH + COLUMN_GAP) - COLUMN_GAP,
        height=2 * MARGIN + rows * (HEIGHT + ROW_GAP) - ROW_GAP,
    )


def _node(stage: StageProgress, x: float, y: float) -> FlowNode:
    share = (stage.done + stage.failed) / stage.total
    return FlowNode(
        stage=stage.stage,
        x=x,
        y=y,
        bar=round(share * (WIDTH - 24), 1),
        count=f"{stage.done}/{stage.total}",
        sentence=_describe_counts(stage),
        state="now" if stage.building else "done" if share == 1 else "open",
    )


def _describe_counts(stage: StageProgress) -> str:
    counts = (("building", stage.building), ("failed", stage.failed))
    more = "".join(f", {count} {state}" for state, count in counts if count)
    return f"{stage.stage}: {stage.done} of {stage.total} there{more}"


def _edge_path(source: FlowNode, target: FlowNode) -> str:
    """Return an SVG path from a node's right side to another's left."""
    x, y = source.x + WIDTH, source.y + HEIGHT / 2
    u, v = target.x, target.y + HEIGHT / 2
    bend = max(20.0, (u - x) / 2)
    return f"M{x:g} {y:g} C{x + bend:g} {y:g} {u - bend:g} {v:g} {u:g} {v:g}"
