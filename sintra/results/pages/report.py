"""A study's report: everything that `sintra.results.pages.report_data` gathered, as one page."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sintra.core.recipe import Recipe
from sintra.results.pages import charts, surgery, words
from sintra.results.pages.page import render
from sintra.results.pages.words import (
    LEVELS,
    STATUS,
    aim_said,
    bytes_said,
    discreet,
    limit_said,
    named,
    numbers,
    plain,
    said,
    with_error,
)
from sintra.study.json_types import CandidateJson, MeasurementJson

Row = dict[str, Any]
SHOWN = 12
MB = 1e6
KIND = {"winner": "this result", "ours": "ours", "stock": "stock preset"}


def page(found: Row) -> str:
    """The page as HTML. found: what `sintra.results.pages.report_data.account` returns."""
    result = found["result"]
    rows = [
        candidate(c, i == 0 and result["winner"] is not None)
        for i, c in enumerate(result["candidates"])
    ]
    picture = found["anatomy"]
    return render(
        "report.html",
        f=found,
        result=result,
        status=STATUS[result["status"]],
        verdict=verdict(found),
        facts=facts(found),
        limits=limits(result),
        aim=aim_said(result["goal"]),
        rows=rows,
        first=rows[:SHOWN],
        plots=plots(found, rows),
        extra=charts.available(),
        figures=surgery.figures(picture) if picture else [],
        legend=surgery.legend(),
        stock=any(r["kind"] == "stock" and r["kld"] for r in rows),
        known=bool(picture) and surgery.known(picture),
        rounds=chapters(found["rounds"], rows),
        winner=rows[0] if result["winner"] else None,
        uses=uses(found),
        discreet=discreet,
        bytes_said=bytes_said,
        plain=plain,
        named=named,
        texts=len(found["manifest"]["texts"]),
        parts=list(zip(charts.TINTS, charts.PARTS, strict=True)),
    )


def verdict(found: Row) -> str:
    """The study in one sentence."""
    result, winner = found["result"], found["result"]["winner"]
    if winner is None:
        return f"Nothing was made: {discreet(result['reason'] or result['status'])}."
    row = numbers(winner)
    name, kld = Recipe.of(winner["recipe"]).name, row.get("kld_mean")
    what = f"{name}, {bytes_said(winner['artifact']['bytes'])}"
    near = (
        f", {with_error(kld['value'], kld.get('stderr'))} nats a token from the 16-bit model"
        if kld
        else ""
    )
    if result["status"] == "met":
        return f"{what}{near}, is {aim_said(result['goal'])} found that holds every limit."
    if winner["verdict"]["violated"]:
        metric, value, limit, _ = winner["verdict"]["violated"][0]
        return (
            f"No variant holds every limit; the nearest, {what}{near}, misses {named(metric)}: "
            f"{said(metric, value)} where the limit is {said(metric, limit)}."
        )
    open_ones = (
        ", ".join(map(named, winner["verdict"]["unknown"])) or "its quality on the report text"
    )
    return f"The best so far is {what}{near}; not decided: {open_ones}."


def facts(found: Row) -> list[tuple[str, str, str]]:
    """The winner's main numbers: label, value, how it was had."""
    winner = found["result"]["winner"]
    if winner is None:
        return []
    row, whole = numbers(winner), found["original_bytes"]
    size = winner["artifact"]["bytes"]
    made = [
        ("Size", bytes_said(size), f"{100 * size / whole:.0f} % of 16 bits" if whole else "exact")
    ]
    if kld := row.get("kld_mean"):
        made.append(("KL divergence", *halves(kld, where(winner))))
    if top := row.get("same_top"):
        made.append(("Same top token", f"{100 * top['value']:.1f} %", "measured"))
    if speed := row.get("device_tg_tps"):
        made.append(("Generation", plain(speed["value"]), "tokens/s, " + interval(speed)))
    if ram := row.get("device_ram_bytes"):
        made.append(("Memory", bytes_said(ram["value"]), "estimated"))
    return made


def halves(kld: MeasurementJson, text: str) -> tuple[str, str]:
    """A divergence, and its error with the text that it is of."""
    value, _, error = with_error(kld["value"], kld.get("stderr")).partition(" ")
    return value, f"{error} nats, {text}"


def where(row: CandidateJson) -> str:
    """On which text a candidate's quality was measured."""
    return f"{row['decided_on']} text"


def interval(measurement: MeasurementJson) -> str:
    """How a number was had, and between what it lies at 90 %."""
    metric = measurement["metric"]
    low, high = (
        "" if end is None else said(metric, end).removesuffix(" tokens/s")
        for end in (measurement.get("low"), measurement.get("high"))
    )
    ends = f", {low} to {high}" if low else ""
    return f"{measurement['how']}{ends}"


def limits(result: Row) -> list[Row]:
    """Each limit with the winner's value, how it was had, and whether it holds."""
    winner = result["winner"]
    row = numbers(winner) if winner else {}
    missed = {v[0] for v in winner["verdict"]["violated"]} if winner else set()
    open_ones = set(winner["verdict"]["unknown"]) if winner else set()
    made = []
    for limit in result["goal"]["constraints"]:
        metric = limit["metric"]
        found = row.get(metric)
        value = said(metric, found["value"]) if found else "\u2013"
        if found and found.get("stderr") and "kld" in metric:
            value = f"{with_error(found['value'], found['stderr'])} nats"
        state = (
            "missed"
            if metric in missed
            else "open"
            if metric in open_ones or not found
            else "holds"
        )
        made.append(
            {
                "say": limit_said(limit),
                "option": discreet(limit["option"]),
                "state": state,
                "value": value,
                "how": how(found),
            }
        )
    return made


def how(found: MeasurementJson | None) -> str:
    """Measured, or estimated between what."""
    return "" if found is None else "measured" if found["how"] == "measured" else interval(found)


def candidate(row: CandidateJson, winner: bool) -> Row:
    """A line of the table, and a point of the plot where it was measured."""
    found, recipe = numbers(row), Recipe.of(row["recipe"])

    def value(metric: str) -> float | None:
        return found[metric]["value"] if metric in found else None

    kld = found.get("kld_mean")
    stock = not recipe.tensors and not recipe.cut and recipe.format == "gguf"
    return {
        "name": recipe.name,
        "kind": "winner" if winner else "stock" if stock else "ours",
        "round": row["round"],
        "bytes": value("size_bytes"),
        "kld": kld["value"] if kld else None,
        "error": kld.get("stderr") if kld else None,
        "top": value("same_top"),
        "tps": value("device_tg_tps"),
        "ram": value("device_ram_bytes"),
        "decided": row["decided_on"] == "report",
        "verdict": words.verdict_said(row),
        "author": row["author"],
        "holds": not row["failure"] and not row["verdict"]["violated"],
        "failure": discreet(row["failure"]["message"]) if row["failure"] else "",
    }


def plots(found: Row, rows: list[Row]) -> dict[str, dict[str, str]]:
    """The plots that can be drawn: pareto, memory, heat; none without the extra."""
    made: dict[str, dict[str, str]] = {}
    if not charts.available():
        return made
    points = [point(r) for r in rows if r["kld"] and r["bytes"]]
    if points:
        limit = {c["metric"]: c["limit"] for c in found["result"]["goal"]["constraints"]}
        near = {
            k: limit[m] / s
            for k, m, s in (("KLD", "kld_mean", 1), ("MB", "size_bytes", MB))
            if m in limit
        }
        made["pareto"] = charts.quality(points, front(points), near)
    if found["memory"]:
        most = max(sum(b[p] for p in charts.PARTS) for b in found["memory"])
        usable = (found["usable_bytes"] or 0) / MB
        made["memory"] = charts.memory(found["memory"], usable if usable < 2 * most else None)
    if found["heat"]:
        made["heat"] = charts.heat(found["heat"]["rows"])
    return made


def point(row: Row) -> Row:
    """A candidate as a point; the bar is two standard errors to each side."""
    reach = 2 * (row["error"] or 0.0)
    tip = (
        f"{row['name']}: {bytes_said(row['bytes'])}, {row['kld']:.5f} ± {row['error'] or 0:.5f} "
        f"nats, {row['verdict']}"
    )
    return {
        "name": row["name"],
        "MB": row["bytes"] / MB,
        "KLD": row["kld"],
        "low": max(row["kld"] - reach, row["kld"] / 4),
        "high": row["kld"] + reach,
        "kind": row["kind"],
        "decided": row["decided"],
        "words": tip,
    }


def front(points: list[Row]) -> list[Row]:
    """Those that no other beats in both bytes and KLD, by size."""
    best: list[Row] = []
    for p in sorted(points, key=lambda p: (p["MB"], p["KLD"])):
        if not best or p["KLD"] < best[-1]["KLD"]:
            best.append({"MB": p["MB"], "KLD": p["KLD"]})
    return best


def chapters(rounds: list[Row], rows: list[Row]) -> list[Row]:
    """The rounds, those in a row that have the same reason as one."""
    came = {r["name"]: r for r in rows}
    named_rounds = [
        (r["round"], [proposed(p, came) for p in r["proposals"]], r["stop"]) for r in rounds
    ]
    made = []
    for gist, group in groupby(named_rounds, lambda r: r[1][-1]["gist"] if r[1] else f"{r[0]}"):
        own = list(group)
        proposals = [p for r in own for p in r[1]]
        made.append(
            {
                "number": own[0][0],
                "to": own[-1][0],
                "proposals": proposals,
                "gist": gist if proposals else "",
                "words": counted(proposals) or discreet(str(own[0][2])),
                "expected": any(p["expected"] for p in proposals),
            }
        )
    return made


def proposed(given: Row, came: dict[str, Row]) -> Row:
    """A proposal: what, by whom, why, what was expected and what came."""
    name, level = Recipe.of(given["recipe"]).name, given["level"]
    why = discreet(given["why"])
    seen = came.get(name) if level in ("search", "report") else None
    return {
        "name": name,
        "level": level,
        "author": given["author"],
        "why": why,
        "gist": f"{given['author']}: {why}",
        "expected": given.get("predicted", {}).get("kld_mean"),
        "came": seen["kld"] if seen else None,
        "sure": given.get("confidence"),
    }


def counted(proposals: list[Row]) -> str:
    """How many were made, and how many measured on which text."""
    levels = sorted(p["level"] for p in proposals)
    counts = [(level, len(list(group))) for level, group in groupby(levels)]
    return ", ".join(
        f"{n} made" if level == "build" else f"{n} on {LEVELS[level]}" for level, n in counts
    )


def uses(found: Row) -> list[tuple[str, str]]:
    """What to do with the result: words and a command."""
    result = found["result"]
    if result["winner"] is None:
        return [("Run the study again, with other limits or other hardware", found["command"])]
    folder, path = f"outputs/{result['study']}", result["winner"]["artifact"]["path"]
    kv, context = (
        result["winner"]["recipe"].get("kv", "f16"),
        (found["probe"] or {}).get("context", 512),
    )
    cache = "" if kv == "f16" else f" -ctk {kv} -ctv {kv} -fa on"
    made = []
    if path == "model.gguf":
        made = [
            ("Run it with llama.cpp", f"llama-cli -m {folder}/{path} -c {context}{cache}"),
            (
                "Serve it, OpenAI-compatible, on this machine",
                f"llama-server -m {folder}/{path} -c {context}{cache}",
            ),
            ("Hand it to Ollama", f"doit export_ollama --study {result['study']}"),
            (
                "Copy it to the device (put its address in the place of DEVICE)",
                f"scp {folder}/{path} DEVICE:",
            ),
        ]
    else:
        made = [
            (
                "Load it with transformers",
                f'python -c "from transformers import AutoModelForCausalLM as M; '
                f"print(M.from_pretrained('{folder}/{path}'))\"",
            )
        ]
    return [
        *made,
        ("Compare its answers with the original's", f"doit ab study={result['study']}"),
        ("Look at every tensor beside a stock preset", f"doit surgery study={result['study']}"),
        ("Make it again: what the cache holds is not built twice", found["command"]),
        (
            "Replay the same steps without a planner",
            f"{found['bare_command']} planner=replay planner.replay={folder}/rounds.json",
        ),
    ]
