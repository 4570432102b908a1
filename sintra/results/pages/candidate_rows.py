"""Turn the candidates of result.json into lines of a table and points of a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sintra.core.recipe import Recipe
from sintra.results.pages.words import (
    format_bytes,
    hide_folders,
    measurements_by_metric,
)
from sintra.results.verdicts import row_words
from sintra.study.json_types import CandidateJson, ResultJson

MB = 1e6
Kind = Literal["winner", "ours", "stock"]


@dataclass(frozen=True)
class CandidateLine:
    """A candidate as the tables of pages show it; None where a number is missing."""

    name: str  # the recipe's name
    kind: Kind  # "stock": one of llama.cpp's presets as it is
    round: int  # the round that proposed it first, from 1
    bytes: float | None  # size of the model file
    kld: float | None  # mean KL divergence, nats
    error: float | None  # standard error of kld, nats
    top: float | None  # share of tokens with the same top token, 0 to 1
    tps: float | None  # estimated or measured generation on the device, tokens/s
    ram: float | None  # memory on the device, bytes
    decided: bool  # whether it was measured on the report text
    verdict: str  # in a few words
    author: str  # who proposed it
    holds: bool  # whether it could be made and violates no limit
    failure: str  # why it could not be made, without folders; "" where it was made
    probe: bool  # whether it was built to measure a group of tensors, not to be delivered


@dataclass(frozen=True)
class PlotPoint:
    """A measured candidate in the plot of quality against size."""

    name: str
    mb: float  # size of its file, MB
    kld: float  # mean KL divergence, nats
    low: float  # lower end of the error bar, nats
    high: float  # upper end of the error bar, nats
    kind: Kind
    decided: bool  # whether it was measured on the report text; others are drawn hollow
    words: str  # tooltip


@dataclass(frozen=True)
class PlotLimits:
    """The goal's limits that the plot of quality against size can show."""

    kld: float | None = None  # nats
    mb: float | None = None  # MB


@dataclass(frozen=True)
class QualityRanges:
    """The ends of both axes, and the limits that are near enough to be drawn."""

    limits: PlotLimits
    mb: tuple[float, float]
    kld: tuple[float, float]  # nats

    @classmethod
    def around(cls, points: list[PlotPoint], limits: PlotLimits) -> QualityRanges:
        """Return the ranges that show all points."""
        sizes = [p.mb for p in points]
        errors = [end for p in points for end in (p.low, p.high)]
        bottom, top = min(errors) / 1.3, max(errors) * 1.3
        near = PlotLimits(
            kld=_within(limits.kld, bottom / 3, top * 3),
            mb=_within(limits.mb, float("-inf"), 1.3 * max(sizes)),
        )
        if near.kld is not None:
            bottom, top = min(bottom, near.kld / 1.3), max(top, near.kld * 1.3)
        spread = max(sizes) - min(sizes) or max(sizes) / 10
        left = max(0.0, min(sizes) - spread / 12)
        right = max([*sizes, near.mb or 0.0]) + spread / 6
        return cls(near, (left, right), (bottom, top))


def candidate_lines(result: ResultJson) -> list[CandidateLine]:
    """Return the candidates of a result, the best first."""
    return [
        candidate_line(row, i == 0 and result["winner"] is not None)
        for i, row in enumerate(result["candidates"])
    ]


def candidate_line(row: CandidateJson, winner: bool) -> CandidateLine:
    """Return one candidate as a line. winner: whether it is the study's result."""
    measurements, recipe = measurements_by_metric(row), Recipe.of(row["recipe"])

    def value(metric: str) -> float | None:
        return measurements[metric]["value"] if metric in measurements else None

    stock = not recipe.tensors and not recipe.cut and recipe.format == "gguf"
    return CandidateLine(
        name=row["name"],
        kind="winner" if winner else "stock" if stock else "ours",
        round=row["round"],
        bytes=value("size_bytes"),
        kld=value("kld_mean"),
        error=measurements["kld_mean"].get("stderr") if "kld_mean" in measurements else None,
        top=value("same_top"),
        tps=value("device_tg_tps"),
        ram=value("device_ram_bytes"),
        decided=row["decided_on"] == "report",
        verdict=row_words(row),
        author=row["author"],
        holds=not row["failure"] and not row["verdict"]["violated"],
        failure=hide_folders(row["failure"]["message"]) if row["failure"] else "",
        probe=bool(row["probe"]) and not winner,
    )


def plot_points(lines: list[CandidateLine]) -> list[PlotPoint]:
    """Return a point for each candidate whose size and KLD are known and above 0."""
    return [_plot_point(line, line.bytes, line.kld) for line in lines if line.bytes and line.kld]


def _plot_point(line: CandidateLine, size: float, kld: float) -> PlotPoint:
    low, high = error_bar(kld, line.error)
    words = (
        f"{line.name}: {format_bytes(size)}, {kld:.5f} ± {line.error or 0:.5f} nats, {line.verdict}"
    )
    return PlotPoint(line.name, size / MB, kld, low, high, line.kind, line.decided, words)


def error_bar(kld: float, error: float | None) -> tuple[float, float]:
    """Return the ends of a bar of two standard errors to each side, in nats.

    The lower end is at least a quarter of the value: the axis is logarithmic.
    """
    reach = 2 * (error or 0.0)
    return max(kld - reach, kld / 4), kld + reach


def plot_limits(limits: Mapping[str, float]) -> PlotLimits:
    """Return the limits of the plot's two axes. limits: metric -> limit."""
    size = limits.get("size_bytes")
    return PlotLimits(kld=limits.get("kld_mean"), mb=None if size is None else size / MB)


def pareto_front(points: Iterable[PlotPoint]) -> list[PlotPoint]:
    """Return the points that no other beats in both bytes and KLD, by size."""
    front: list[PlotPoint] = []
    for point in sorted(points, key=lambda p: (p.mb, p.kld)):
        if not front or point.kld < front[-1].kld:
            front.append(point)
    return front


def _within(limit: float | None, low: float, high: float) -> float | None:
    return limit if limit is not None and low <= limit <= high else None
