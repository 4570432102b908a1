"""Draw the report's plots by Altair (extra `plot`).

A plot is SVG in the page's own CSS variables, so that one picture serves light, dark and print,
without a script. Each plot comes twice, for wide pages and for phones: text keeps its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from sintra.results.pages.candidate_rows import (
    Kind,
    PlotLimits,
    PlotPoint,
    QualityRanges,
    pareto_front,
)

Chart = Any  # a chart, scale or channel of Altair
VegaRow = dict[str, Any]  # a row of a chart's data: field -> value
WIDE, NARROW = 860, 300  # pixels of the plot itself
SYMBOL = re.compile(
    r'<path aria-label="([^"]*)" role="graphics-symbol" '
    r'aria-roledescription="(?:point|bar)"([^>]*)/>'
)
MEMORY_PARTS = ("weights", "KV cache", "compute buffer", "runtime")
ABOVE = {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleY": -12, "titleX": -30}
AXIS = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "gridColor": "var(--grid)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "labelPadding": 6,
}
TINTS = ("var(--accent)", "var(--tint2)", "var(--tint3)", "var(--tint4)")
MARKS: dict[Kind, tuple[str, int, str]] = {  # shape, area in square pixels, color
    "ours": ("circle", 42, "var(--soft)"),
    "stock": ("square", 62, "var(--text)"),
    "winner": ("diamond", 170, "var(--accent)"),
}
LIMIT_DASH = [5, 4]


@dataclass(frozen=True)
class Plot:
    """A plot as two SVG texts."""

    wide: str  # for screens
    narrow: str  # for phones


@dataclass(frozen=True)
class HeatSample:
    """A moment of the simulated quarter of an hour under full load."""

    minutes: float
    chip: float  # degrees Celsius
    case: float  # degrees Celsius
    tps: float  # tokens/s


@dataclass(frozen=True)
class MemoryBar:
    """The estimated memory of one model."""

    name: str
    parts: dict[str, float]  # each of MEMORY_PARTS -> MB

    @property
    def total(self) -> float:
        """Return the sum of the parts, MB."""
        return sum(self.parts[part] for part in MEMORY_PARTS)


def plots_available() -> bool:
    """Return whether the extra `plot` is installed."""
    try:
        import altair  # noqa: F401  # an optional package
        import vl_convert  # noqa: F401  # an optional package
    except ImportError:
        return False
    return True


def import_altair() -> Any:
    """Import Altair, an optional package. Its own types don't allow options in dictionaries."""
    import altair  # an optional package

    return altair


def to_svg(chart: Chart) -> str:
    """Return a chart as SVG; the description of each mark becomes its tooltip."""
    import vl_convert  # an optional package

    configured = chart.configure(
        background="transparent", font="system-ui, sans-serif", padding=4
    ).configure_view(stroke=None)
    svg: str = vl_convert.vegalite_to_svg(configured.configure_axis(**AXIS).to_dict(validate=False))
    svg = SYMBOL.sub(r"<path\2><title>\1</title></path>", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def draw_both(draw: Callable[[int], Chart]) -> Plot:
    """Draw a chart at both widths. draw: makes it, from a width in pixels."""
    return Plot(wide=to_svg(draw(WIDE)), narrow=to_svg(draw(NARROW)))


def log_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a logarithmic axis: decades, and 2 and 5 between them where there are
    fewer than three.
    """
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1, 2, 5) if sum(low <= 10.0**d <= high for d in decades) < 3 else (1,)
    return [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]


def draw_quality(points: list[PlotPoint], limits: PlotLimits) -> Plot:
    """Draw mean KLD (nats, logarithmic) against size (MB)."""
    ranges = QualityRanges.around(points, limits)
    return draw_both(lambda width: _quality_chart(points, ranges, width))


def _quality_chart(points: list[PlotPoint], ranges: QualityRanges, width: int) -> Chart:
    alt = import_altair()

    x = alt.X(
        "MB:Q",
        scale=alt.Scale(domain=ranges.mb, nice=False),
        title="size, MB",
        axis=alt.Axis(tickCount=width // 80),
    )
    y = alt.Y(
        "KLD:Q",
        title="mean KL divergence, nats per token",
        axis=alt.Axis(values=log_ticks(*ranges.kld), format="~g", **ABOVE),
        scale=alt.Scale(type="log", domain=ranges.kld, nice=False),
    )
    front = [{"MB": p.mb, "KLD": p.kld} for p in pareto_front(points)]
    layers = [
        alt.Chart(_data(front))
        .mark_line(interpolate="step-after", color="var(--line)")
        .encode(x=x, y=y),
        *_limit_layers(alt, ranges, x, y),
        alt.Chart(_point_data(points))
        .mark_rule(color="var(--soft)", opacity=0.55)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        *(_point_layer(alt, points, kind, x, y) for kind in MARKS),
        *(_name_layer(alt, p, ranges, x, y) for p in points if p.kind != "ours"),
    ]
    return alt.layer(*layers).properties(width=width, height=340 if width == WIDE else 300)


def _data(rows: Iterable[VegaRow]) -> dict[str, list[VegaRow]]:
    return {"values": list(rows)}


def _point_data(points: Iterable[PlotPoint]) -> dict[str, list[VegaRow]]:
    return _data(vars(point) | {"MB": point.mb, "KLD": point.kld} for point in points)


def _limit_layers(alt: Any, ranges: QualityRanges, x: Chart, y: Chart) -> Iterator[Chart]:
    """Yield a dashed line and its label for each limit."""
    right, top = ranges.mb[1], ranges.kld[1]
    kld, mb = ranges.limits.kld, ranges.limits.mb
    if kld is not None:
        row = {"MB": right, "KLD": kld, "label": f"limit {kld:g}"}
        yield from _limit_layer(alt, row, {"y": y}, x, y, "bottom", -4)
    if mb is not None:
        row = {"MB": mb, "KLD": top, "label": f"limit {mb:g} MB"}
        yield from _limit_layer(alt, row, {"x": x}, x, y, "top", 4)


def _limit_layer(
    alt: Any,
    row: VegaRow,
    across: dict[str, Chart],
    x: Chart,
    y: Chart,
    baseline: str,
    dy: int,
) -> Iterator[Chart]:
    """Yield a line across the plot and its label. across: the one channel that places the line."""
    base = alt.Chart(_data([row]))
    yield base.mark_rule(strokeDash=LIMIT_DASH, color="var(--text)", opacity=0.8).encode(**across)
    yield base.mark_text(
        align="right", baseline=baseline, dx=-4, dy=dy, fontSize=12, color="var(--text)"
    ).encode(x=x, y=y, text="label:N")


def _point_layer(alt: Any, points: list[PlotPoint], kind: Kind, x: Chart, y: Chart) -> Chart:
    shape, area, color = MARKS[kind]
    fill = alt.condition("datum.decided", alt.value(color), alt.value("var(--page)"))
    return (
        alt.Chart(_point_data(p for p in points if p.kind == kind))
        .mark_point(shape=shape, size=area, stroke=color, strokeWidth=1.6, opacity=1)
        .encode(x=x, y=y, fill=fill, description="words:N")
    )


def _name_layer(alt: Any, point: PlotPoint, ranges: QualityRanges, x: Chart, y: Chart) -> Chart:
    """Return the name of a point, on the side where the plot has room."""
    left, right = ranges.mb
    on_left = point.mb > left + 0.6 * (right - left)
    strong = point.kind == "winner"
    return (
        alt.Chart(_point_data([point]))
        .mark_text(
            align="right" if on_left else "left",
            dx=-10 if on_left else 10,
            dy=15 if strong else 4,
            fontSize=12,
            fontWeight="bold" if strong else "normal",
            color="var(--accent)" if strong else "var(--text)",
        )
        .encode(x=x, y=y, text="name:N")
    )


def draw_memory(bars: list[MemoryBar], limit: float | None) -> Plot:
    """Draw memory by part. limit: the device's usable MB, None where that is far away."""
    return draw_both(lambda width: _memory_chart(bars, limit, width))


def _memory_chart(bars: list[MemoryBar], limit: float | None, width: int) -> Chart:
    alt = import_altair()

    rows = [
        {
            "name": bar.name,
            "part": part,
            "MB": bar.parts[part],
            "order": order,
            "words": f"{bar.name}: {part} {bar.parts[part]:.1f} MB",
        }
        for bar in bars
        for order, part in enumerate(MEMORY_PARTS)
    ]
    names = alt.Y(
        "name:N",
        sort=[bar.name for bar in bars],
        title=None,
        axis=alt.Axis(labelLimit=120, domain=False, ticks=False),
    )
    color = alt.Color(
        "part:N", scale=alt.Scale(domain=list(MEMORY_PARTS), range=list(TINTS)), legend=None
    )
    chart = (
        alt.Chart(_data(rows))
        .mark_bar(height=18)
        .encode(
            x=alt.X("MB:Q", title="MB", axis=alt.Axis(tickCount=width // 90)),
            y=names,
            color=color,
            order="order:Q",
            description="words:N",
        )
    )
    if limit is not None:
        chart += (
            alt.Chart(_data([{"MB": limit}]))
            .mark_rule(strokeDash=LIMIT_DASH, color="var(--text)")
            .encode(x="MB:Q")
        )
    return chart.properties(width=width - 80, height=32 * len(bars))


def draw_heat(samples: list[HeatSample]) -> Plot:
    """Draw temperatures (degrees Celsius) and tokens/s over minutes, one above the other."""
    return draw_both(lambda width: _heat_chart(samples, width))


def _heat_chart(samples: list[HeatSample], width: int) -> Chart:
    alt = import_altair()

    x = alt.X("minutes:Q", title="minutes", axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False))
    speed = alt.Y("tps:Q", title="tokens/s (simulated)", axis=alt.Axis(tickCount=4, **ABOVE))
    speeds = (
        alt.Chart(_data({"minutes": s.minutes, "tps": s.tps} for s in samples))
        .mark_line(strokeWidth=2, color="var(--accent)")
        .encode(x=x, y=speed)
    )
    size = {"width": width - 40, "height": 150}
    temperatures = _temperature_chart(alt, samples, x)
    return alt.vconcat(temperatures.properties(**size), speeds.properties(**size), spacing=28)


def _temperature_chart(alt: Any, samples: list[HeatSample], x: Chart) -> Chart:
    """Return a line for the chip and one for the case, each with its name at its end."""
    rows = [
        {"minutes": s.minutes, "C": celsius, "part": part}
        for s in samples
        for part, celsius in (("chip", s.chip), ("case", s.case))
    ]
    ends = [row for row in rows if row["minutes"] == samples[-1].minutes]
    celsius = alt.Y(
        "C:Q",
        title="temperature, Celsius (simulated)",
        scale=alt.Scale(zero=False),
        axis=alt.Axis(tickCount=4, **ABOVE),
    )
    color = alt.Color(
        "part:N",
        scale=alt.Scale(domain=["chip", "case"], range=["var(--accent)", "var(--soft)"]),
        legend=None,
    )
    lines = alt.Chart(_data(rows)).mark_line(strokeWidth=2).encode(x=x, y=celsius, color=color)
    names = (
        alt.Chart(_data(ends))
        .mark_text(align="left", dx=6, fontSize=12)
        .encode(x=x, y=celsius, text="part:N", color=color)
    )
    return lines + names
