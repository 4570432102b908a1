"""The steps of the GitHub Action (action.yml): `python -m sintra.cli.commands.ci key` and `python -m sintra.cli.commands.ci
optimize`.

Inputs come as variables (SINTRA_MODEL, SINTRA_HARDWARE, SINTRA_GOAL, SINTRA_OPTIONS,
SINTRA_AGAINST), outputs go into the file GITHUB_OUTPUT, the table into GITHUB_STEP_SUMMARY
(https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, variant_name
from sintra.study.workspace import open_workspace

KEPT = ("ac", "cas", "studies", "pins", "meta", "history.db")
SHOWN = 12


def options() -> list[str]:
    """The overrides of this run."""
    named = [
        f"{k}={v}"
        for k in ("model", "hardware", "goal")
        if (v := os.environ.get(f"SINTRA_{k.upper()}"))
    ]
    return named + [
        line.strip() for line in os.environ.get("SINTRA_OPTIONS", "").splitlines() if line.strip()
    ]


def output(**values: Any) -> None:
    """Outputs of the step; texts of several lines between marks that aren't in them."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as handle:
        for name, value in values.items():
            mark = "end"
            while mark in str(value):
                mark += "_"
            handle.write(
                f"{name}<<{mark}\n{value}\n{mark}\n" if "\n" in str(value) else f"{name}={value}\n"
            )


def key() -> int:
    """What the store is kept under: the digest of all that steps depend on beside their recipe,
    then the study; what holds for another study is good for this one too, since every step is found
    by the digest of what it was made from.
    """
    workspace = open_workspace(Path.cwd(), options())
    paths = "\n".join(str((workspace.store.root / name).resolve()) for name in KEPT)
    output(base=workspace.base()[:16], study=workspace.study.id, paths=paths)
    return 0


def optimize() -> int:
    """Run the study; the step itself fails only where it couldn't be run, so that the store is
    saved in any case.
    """
    raw = options()
    workspace = open_workspace(Path.cwd(), raw)
    code = subprocess.run([sys.executable, "-m", "doit", "optimize", *raw], check=False).returncode
    path = workspace.outputs / "result.json"
    if code not in (0, 1) or not path.is_file():
        return code or 3
    found = json.loads(path.read_text())
    verdict = (
        fallen(found, os.environ.get("SINTRA_AGAINST", ""))
        if found["status"] == "met"
        else missed(found)
    )
    summarise(found, verdict)
    best = found["winner"]
    told = {"status": found["status"], "result": path.resolve(), "verdict": verdict}
    if best:
        numbers = values(best)
        file = (path.parent / best["artifact"]["path"]).resolve()
        told |= {
            "winner": name(best),
            "path": file,
            "kld": numbers.get("kld_mean", ""),
            "sha256": best["artifact"]["sha256"],
            "bytes": best["artifact"]["bytes"],
        }
    output(**told)
    return 0


def missed(found: dict[str, Any]) -> str:
    """Why a goal isn't met, in a line."""
    best = found["winner"]
    if not best or not best["verdict"]["violated"]:
        return f"{found['study']} is {found['status']}: {found['reason']}"
    metric, value, limit, _ = best["verdict"]["violated"][0]
    return f"{found['study']}: {metric} is {value:.6g} where the limit is {limit:.6g}"


def fallen(found: dict[str, Any], against: str) -> str:
    """Whether quality has fallen against an earlier result: a line, or "". Two standard errors of
    the difference are allowed. Raises UserError.
    """
    if not against:
        return ""
    try:
        before = measurement(json.loads(Path(against).read_text())["winner"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"against={against}: that is no result.json with a winner") from None
    now = measurement(found["winner"])
    room = 2 * math.hypot(before.get("stderr") or 0.0, now.get("stderr") or 0.0)
    if now["value"] <= before["value"] + room:
        return ""
    return (
        f"quality has fallen: KLD {now['value']:.5f} nats, it was {before['value']:.5f} "
        f"(+-{room:.5f} would be chance)"
    )


def measurement(winner: dict[str, Any]) -> dict[str, Any]:
    """The winner's KLD."""
    return next(dict(m) for m in winner["measurements"] if m["metric"] == "kld_mean")


def values(row: dict[str, Any]) -> dict[str, float]:
    """A candidate's numbers."""
    return {m["metric"]: m["value"] for m in row["measurements"]}


def name(row: dict[str, Any]) -> str:
    """A candidate's name."""
    return variant_name(Recipe.of(row["recipe"]))


def summarise(found: dict[str, Any], verdict: str) -> None:
    """The table, as Markdown."""
    lines = [f"### {found['study']}: {found['status']}", ""]
    if verdict:
        lines += [f"**{verdict}**", ""]
    lines += [
        "| variant | MB | KLD (nats) | same top | tok/s* | RAM MB* | verdict |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    lines += [line(row) for row in found["candidates"][:SHOWN]]
    lines += [
        "",
        (
            f"\\* estimated for {found['hardware']}; KLD and same top are measured against the "
            "16-bit model"
        ),
        "",
    ]
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as handle:
        handle.write("\n".join(lines))


def line(row: dict[str, Any]) -> str:
    """A candidate as a row of the table."""
    numbers = values(row)

    def show(metric: str, form: Callable[[float], str]) -> str:
        return form(numbers[metric]) if metric in numbers else "-"

    cells = [
        name(row),
        show("size_bytes", lambda v: f"{v / 1e6:.2f}"),
        show("kld_mean", lambda v: f"{v:.5f}"),
        show("same_top", lambda v: f"{v:.1%}"),
        show("device_tg_tps", lambda v: f"{v:.3g}"),
        show("device_ram_bytes", lambda v: f"{v / 1e6:.0f}"),
        row["verdict"]["status"],
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> int:
    """The process's entry."""
    steps = {"key": key, "optimize": optimize}
    try:
        if len(argv) != 1 or argv[0] not in steps:
            raise UserError(f"python -m sintra.cli.commands.ci takes {' or '.join(steps)}")
        return steps[argv[0]]()
    except UserError as error:
        print(f"::error title=Sintra::{error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
