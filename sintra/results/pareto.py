"""The Pareto plot of many results: damage against bytes, one self-contained page, by Altair (extra
`plot`).
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    "content='width=device-width'>"
    "<title>Pareto plot</title><style>body{{font:16px/1.4 "
    "system-ui;margin:1rem;color-scheme:light dark}}</style>"
    "<h1>Damage against size</h1><p>{words}</p>{chart}</html>"
)


def front(rows: list[Row]) -> list[Row]:
    """Those that no other beats in both bytes and KLD, by size."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["size_bytes"], r["kld_mean"])):
        if not best or row["kld_mean"] < best[-1]["kld_mean"]:
            best.append(row)
    return best


def page(rows: list[Row], keys: list[str]) -> str | None:
    """HTML that needs no network; None where Altair isn't installed."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError:
        return None
    points = [
        {
            "MB": r["size_bytes"] / 1e6,
            "KLD": r["kld_mean"],
            "status": r["status"],
            "study": ", ".join(str(r[k]) for k in keys),
        }
        for r in rows
    ]
    line = [{"MB": r["size_bytes"] / 1e6, "KLD": r["kld_mean"]} for r in front(rows)]
    x, y = (
        altair.X("MB:Q", scale=altair.Scale(zero=False)),
        altair.Y("KLD:Q", scale=altair.Scale(type="log"), title="KLD (nats)"),
    )
    tips = ["study:N", "MB:Q", "KLD:Q", "status:N"]
    dots = (
        altair.Chart({"values": points})
        .mark_point(filled=True, size=90)
        .encode(x=x, y=y, color="study:N", shape="status:N", tooltip=tips)
    )
    steps = (
        altair.Chart({"values": line})
        .mark_line(interpolate="step-after", opacity=0.5)
        .encode(x=x, y=y)
    )
    chart = (steps + dots).properties(width="container", height=420)
    words = "; ".join(
        f"{p['study']}: {p['MB']:.2f} MB, {p['KLD']:.5f} nats, {p['status']}" for p in points
    )
    inner = chart.to_html(inline=True, fullhtml=False)
    return HEAD.format(words=words, chart=inner)
