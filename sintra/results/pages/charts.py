"""The report's plots, by Altair (extra `plot`): SVG whose colours are the page's own CSS variables,
so that one picture serves light, dark and print, without a script. Each plot comes twice, for wide
pages and for phones: text keeps its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import ceil, floor, log10
from typing import Any

Row = dict[str, Any]
Chart = Any
WIDE, NARROW = 860, 300  # pixels of the plot itself
SYMBOL = re.compile(
    r'<path aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="(?:point|bar)"([^>]*)/>'
)
PARTS = ("weights", "KV cache", "compute buffer", "runtime")
FLAT = {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleY": -12, "titleX": -30}
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


def available() -> bool:
    """Whether the extra is installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def library() -> Any:
    """Altair."""
    import altair

    return altair


def svg(chart: Chart) -> str:
    """A chart as SVG; what its marks are described by becomes their tooltip."""
    import vl_convert

    made = chart.configure(
        background="transparent", font="system-ui, sans-serif", padding=4
    ).configure_view(stroke=None)
    text: str = vl_convert.vegalite_to_svg(made.configure_axis(**AXIS).to_dict(validate=False))
    text = SYMBOL.sub(r"<path\2><title>\1</title></path>", text)
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def both(draw: Callable[[int], Chart]) -> dict[str, str]:
    """Wide and narrow."""
    return {"wide": svg(draw(WIDE)), "narrow": svg(draw(NARROW))}


def ticks(low: float, high: float) -> list[float]:
    """Places of a logarithmic axis: decades, and 2 and 5 between them where there are few."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1, 2, 5) if sum(low <= 10.0**d <= high for d in decades) < 3 else (1,)
    return [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]


def quality(points: list[Row], front: list[Row], limits: dict[str, float]) -> dict[str, str]:
    """Mean KLD (nats, logarithmic) against size (MB). points: name, MB, KLD, low, high, kind
    (winner, ours, stock), decided, words; limits: KLD, MB.
    """
    sizes, values = [p["MB"] for p in points], [v for p in points for v in (p["low"], p["high"])]
    bottom, top = min(values) / 1.3, max(values) * 1.3
    near = {
        k: v
        for k, v in limits.items()
        if (bottom / 3 <= v <= top * 3 if k == "KLD" else v <= 1.3 * max(sizes))
    }
    if "KLD" in near:
        bottom, top = min(bottom, near["KLD"] / 1.3), max(top, near["KLD"] * 1.3)
    spread = max(sizes) - min(sizes) or max(sizes) / 10
    sides = (max(0.0, min(sizes) - spread / 12), max([*sizes, near.get("MB", 0.0)]) + spread / 6)

    def draw(width: int) -> Chart:
        alt = library()

        x = alt.X(
            "MB:Q",
            scale=alt.Scale(domain=sides, nice=False),
            title="size, MB",
            axis=alt.Axis(tickCount=width // 80),
        )
        axis = alt.Axis(values=ticks(bottom, top), format="~g", **FLAT)
        y = alt.Y(
            "KLD:Q",
            title="mean KL divergence, nats a token",
            axis=axis,
            scale=alt.Scale(type="log", domain=(bottom, top), nice=False),
        )
        layers = [
            alt.Chart(_data(front))
            .mark_line(interpolate="step-after", color="var(--line)")
            .encode(x=x, y=y)
        ]
        layers += list(_limits(alt, near, sides, top, x, y))
        bars = (
            alt.Chart(_data(points))
            .mark_rule(color="var(--soft)", opacity=0.55)
            .encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
        )
        layers += [bars, *(_marks(alt, points, kind, x, y) for kind in ("ours", "stock", "winner"))]
        told = [p for p in points if p["kind"] != "ours"]
        for p in told:
            left = p["MB"] > sides[0] + 0.6 * (sides[1] - sides[0])
            strong = p["kind"] == "winner"
            layers.append(
                alt.Chart(_data([p]))
                .mark_text(
                    align="right" if left else "left",
                    dx=-10 if left else 10,
                    dy=15 if strong else 4,
                    fontSize=12,
                    fontWeight="bold" if strong else "normal",
                    color="var(--accent)" if strong else "var(--text)",
                )
                .encode(x=x, y=y, text="name:N")
            )
        return alt.layer(*layers).properties(width=width, height=340 if width == WIDE else 300)

    return both(draw)


def _data(rows: Iterable[Row]) -> Row:
    return {"values": list(rows)}


def _limits(
    alt: Any, near: dict[str, float], sides: tuple[float, float], top: float, x: Any, y: Any
) -> Iterable[Chart]:
    for key, value in near.items():
        rule = {"strokeDash": [5, 4], "color": "var(--text)", "opacity": 0.8}
        base = alt.Chart(
            _data(
                [
                    {
                        "MB": sides[1] if key == "KLD" else value,
                        "KLD": value if key == "KLD" else top,
                        "say": f"limit {value:g}{'' if key == 'KLD' else ' MB'}",
                    }
                ]
            )
        )
        yield base.mark_rule(**rule).encode(**({"y": y} if key == "KLD" else {"x": x}))
        yield base.mark_text(
            align="right",
            baseline="bottom" if key == "KLD" else "top",
            dx=-4,
            dy=-4 if key == "KLD" else 4,
            fontSize=12,
            color="var(--text)",
        ).encode(x=x, y=y, text="say:N")


def _marks(alt: Any, points: list[Row], kind: str, x: Any, y: Any) -> Chart:
    shape, size, colour = {
        "ours": ("circle", 42, "var(--soft)"),
        "stock": ("square", 62, "var(--text)"),
        "winner": ("diamond", 170, "var(--accent)"),
    }[kind]
    own = [p for p in points if p["kind"] == kind]
    fill = alt.condition("datum.decided", alt.value(colour), alt.value("var(--page)"))
    return (
        alt.Chart(_data(own))
        .mark_point(shape=shape, size=size, stroke=colour, strokeWidth=1.6, opacity=1)
        .encode(x=x, y=y, fill=fill, description="words:N")
    )


def memory(bars: list[Row], limit: float | None) -> dict[str, str]:
    """Bytes in memory by part. bars: name and MB of each of PARTS; limit: the device's usable MB,
    where it is near.
    """
    rows = [
        {
            "name": b["name"],
            "part": p,
            "MB": b[p],
            "order": i,
            "words": f"{b['name']}: {p} {b[p]:.1f} MB",
        }
        for b in bars
        for i, p in enumerate(PARTS)
    ]

    def draw(width: int) -> Chart:
        alt = library()

        y = alt.Y(
            "name:N",
            sort=[b["name"] for b in bars],
            title=None,
            axis=alt.Axis(labelLimit=120, domain=False, ticks=False),
        )
        colour = alt.Color(
            "part:N", scale=alt.Scale(domain=list(PARTS), range=list(TINTS)), legend=None
        )
        made = (
            alt.Chart(_data(rows))
            .mark_bar(height=18)
            .encode(
                x=alt.X("MB:Q", title="MB", axis=alt.Axis(tickCount=width // 90)),
                y=y,
                color=colour,
                order="order:Q",
                description="words:N",
            )
        )
        if limit is not None:
            made += (
                alt.Chart(_data([{"MB": limit}]))
                .mark_rule(strokeDash=[5, 4], color="var(--text)")
                .encode(x="MB:Q")
            )
        return made.properties(width=width - 80, height=32 * len(bars))

    return both(draw)


def heat(rows: list[Row]) -> dict[str, str]:
    """Temperatures (Celsius) and tokens/s over minutes. rows: minutes, chip, case, tps."""
    warm = [
        {"minutes": r["minutes"], "C": r[part], "part": part}
        for r in rows
        for part in ("chip", "case")
    ]
    ends = [r for r in warm if r["minutes"] == rows[-1]["minutes"]]

    def draw(width: int) -> Chart:
        alt = library()

        x = alt.X(
            "minutes:Q", title="minutes", axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False)
        )
        c = alt.Y(
            "C:Q",
            title="temperature, Celsius (simulated)",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=4, **FLAT),
        )
        colour = alt.Color(
            "part:N",
            scale=alt.Scale(domain=["chip", "case"], range=["var(--accent)", "var(--soft)"]),
            legend=None,
        )
        lines = alt.Chart(_data(warm)).mark_line(strokeWidth=2).encode(x=x, y=c, color=colour)
        names = (
            alt.Chart(_data(ends))
            .mark_text(align="left", dx=6, fontSize=12)
            .encode(x=x, y=c, text="part:N", color=colour)
        )
        speed = alt.Y("tps:Q", title="tokens/s (simulated)", axis=alt.Axis(tickCount=4, **FLAT))
        below = (
            alt.Chart(_data(rows))
            .mark_line(strokeWidth=2, color="var(--accent)")
            .encode(x=x, y=speed)
        )
        tall = {"width": width - 40, "height": 150}
        return alt.vconcat((lines + names).properties(**tall), below.properties(**tall), spacing=28)

    return both(draw)
