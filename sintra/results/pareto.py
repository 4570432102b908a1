"""The Pareto plot of many results: damage against bytes, one self-contained page, by Altair (extra
`plot`).
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]  # of sintra.results.comparison
HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    "content='width=device-width'>"
    "<title>Pareto plot</title><style>body{{font:16px/1.4 "
    "system-ui;margin:1rem;color-scheme:light dark}}</style>"
    "<h1>Damage against size</h1><p>{words}</p>{chart}</html>"
)


def pareto_front(rows: list[Row]) -> list[Row]:
    """Return the rows that no other beats in both bytes and KLD, by size."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["size_bytes"], r["kld_mean"])):
        if not front or row["kld_mean"] < front[-1]["kld_mean"]:
            front.append(row)
    return front


def pareto_page(rows: list[Row], options: list[str]) -> str | None:
    """Return HTML that needs no network; None where Altair isn't installed."""
    try:
        import altair  # the extra `plot`
        import vl_convert  # noqa: F401
    except ImportError:
        return None
    points = [
        {
            "MB": r["size_bytes"] / 1e6,
            "KLD": r["kld_mean"],
            "status": r["status"],
            "study": ", ".join(str(r[o]) for o in options),
        }
        for r in rows
    ]
    front = [{"MB": r["size_bytes"] / 1e6, "KLD": r["kld_mean"]} for r in pareto_front(rows)]
    words = "; ".join(
        f"{p['study']}: {p['MB']:.2f} MB, {p['KLD']:.5f} nats, {p['status']}" for p in points
    )
    chart = pareto_chart(altair, points, front)
    return HEAD.format(words=words, chart=chart.to_html(inline=True, fullhtml=False))


def pareto_chart(altair: Any, points: list[Row], front: list[Row]) -> Any:
    """Return a chart of all points over the steps of the front."""
    x = altair.X("MB:Q", scale=altair.Scale(zero=False))
    y = altair.Y("KLD:Q", scale=altair.Scale(type="log"), title="KLD (nats)")
    dots = (
        altair.Chart({"values": points})
        .mark_point(filled=True, size=90)
        .encode(
            x=x,
            y=y,
            color="study:N",
            shape="status:N",
            tooltip=["study:N", "MB:Q", "KLD:Q", "status:N"],
        )
    )
    steps = (
        altair.Chart({"values": front})
        .mark_line(interpolate="step-after", opacity=0.5)
        .encode(x=x, y=y)
    )
    return (steps + dots).properties(width="container", height=420)
