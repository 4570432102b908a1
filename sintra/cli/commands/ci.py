"""The steps of the GitHub Action (action.yml): `python -m sintra.cli.commands.ci key|optimize`.

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
from pathlib import Path

from sintra.core.errors import UserError
from sintra.results.verdicts import row_words, violation_words
from sintra.study.json_types import CandidateJson, MeasurementJson, ResultJson
from sintra.study.workspace import open_workspace

CACHED_PATHS = ("ac", "cas", "studies", "pins", "meta", "history.db")
TABLE_ROWS = 12  # of the summary, at most
STANDARD_ERRORS = 2  # of a difference, which chance alone may make


def read_overrides() -> list[str]:
    """Return the KEY=VALUE options that the environment names."""
    named = [
        f"{k}={v}"
        for k in ("model", "hardware", "goal")
        if (v := os.environ.get(f"SINTRA_{k.upper()}"))
    ]
    return named + [
        line.strip() for line in os.environ.get("SINTRA_OPTIONS", "").splitlines() if line.strip()
    ]


def write_outputs(**values: object) -> None:
    """Write outputs of the step; a text of several lines stands between marks that aren't in it."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as handle:
        for name, value in values.items():
            mark = "end"
            while mark in str(value):
                mark += "_"
            handle.write(
                f"{name}<<{mark}\n{value}\n{mark}\n" if "\n" in str(value) else f"{name}={value}\n"
            )


def write_cache_key() -> int:
    """Write the key under which the action caches the store. Returns the exit code.

    It is the digest of all that steps depend on beside their recipe, then the study. The cache of
    another study serves too, since every step is found by the digest of what it was made from.
    """
    workspace = open_workspace(Path.cwd(), read_overrides())
    paths = "\n".join(str((workspace.store.root / name).resolve()) for name in CACHED_PATHS)
    write_outputs(base=workspace.base()[:16], study=workspace.study.id, paths=paths)
    return 0


def run_study() -> int:
    """Run the study and write its outputs and the table. Returns the exit code.

    The step itself fails only where the study couldn't be run, so that the store is saved in any
    case.
    """
    overrides = read_overrides()
    workspace = open_workspace(Path.cwd(), overrides)
    code = subprocess.run(
        [sys.executable, "-m", "doit", "optimize", *overrides], check=False
    ).returncode
    path = workspace.outputs / "result.json"
    if code not in (0, 1) or not path.is_file():
        return code or 3
    result = json.loads(path.read_text())
    verdict = (
        quality_loss(result, os.environ.get("SINTRA_AGAINST", ""))
        if result["status"] == "pass"
        else missed_goal(result)
    )
    append_summary(result, verdict)
    write_outputs(status=result["status"], result=path.resolve(), verdict=verdict)
    if winner := result["winner"]:
        write_outputs(
            winner=winner["name"],
            path=(path.parent / winner["artifact"]["path"]).resolve(),
            kld=metric_values(winner).get("kld_mean", ""),
            sha256=winner["artifact"]["sha256"],
            bytes=winner["artifact"]["bytes"],
        )
    return 0


def missed_goal(result: ResultJson) -> str:
    """Return why a goal isn't met, in a line."""
    winner = result["winner"]
    if not winner or not winner["verdict"]["violated"]:
        return f"{result['study']} is {result['status']}: {result['reason']}"
    return f"{result['study']}: fail: {violation_words(winner['verdict']['violated'][0])}"


def quality_loss(result: ResultJson, against: str) -> str:
    """Return in a line how far quality has fallen against an earlier result; "" where it hasn't.

    Two standard errors of the difference are allowed. Raises UserError for a file that is none.
    """
    if not against or result["winner"] is None:
        return ""
    try:
        before = kld_row(json.loads(Path(against).read_text())["winner"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"against={against}: that is not a result.json with a winner") from None
    now = kld_row(result["winner"])
    tolerance = STANDARD_ERRORS * math.hypot(before.get("stderr") or 0.0, now.get("stderr") or 0.0)
    if now["value"] <= before["value"] + tolerance:
        return ""
    return (
        f"quality has fallen: KLD {now['value']:.5f} nats, it was {before['value']:.5f} "
        f"(+-{tolerance:.5f} would be chance)"
    )


def kld_row(winner: CandidateJson) -> MeasurementJson:
    """Return the measurement of the winner's KLD. Raises StopIteration where there is none."""
    return next(m for m in winner["measurements"] if m["metric"] == "kld_mean")


def metric_values(row: CandidateJson) -> dict[str, float]:
    """Return a candidate's values by metric."""
    return {m["metric"]: m["value"] for m in row["measurements"]}


def append_summary(result: ResultJson, verdict: str) -> None:
    """Append the result's table to the job's summary, as Markdown."""
    lines = [f"### {result['study']}: {result['status']}", ""]
    if verdict:
        lines += [f"**{verdict}**", ""]
    lines += [
        "| variant | MB | KLD (nats) | same top | tok/s* | RAM MB* | result |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    shown = [row for row in result["candidates"] if not row["probe"]]
    lines += [table_row(row) for row in shown[:TABLE_ROWS]]
    lines += [
        "",
        (
            f"\\* estimated for {result['hardware']}; KLD and same top are measured against the "
            "16-bit model"
        ),
        "",
    ]
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as handle:
        handle.write("\n".join(lines))


def table_row(row: CandidateJson) -> str:
    """Return a candidate as a row of the table."""
    numbers = metric_values(row)

    def cell(metric: str, scale: float, form: str) -> str:
        return format(numbers[metric] / scale, form) if metric in numbers else "-"

    cells = [
        row["name"],
        cell("size_bytes", 1e6, ".2f"),
        cell("kld_mean", 1, ".5f"),
        cell("same_top", 1, ".1%"),
        cell("device_tg_tps", 1, ".3g"),
        cell("device_ram_bytes", 1e6, ".0f"),
        row_words(row),
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> int:
    """Run the step of the action that is named. Returns the exit code."""
    steps = {"key": write_cache_key, "optimize": run_study}
    try:
        if len(argv) != 1 or argv[0] not in steps:
            raise UserError(f"python -m sintra.cli.commands.ci takes {' or '.join(steps)}")
        return steps[argv[0]]()
    except UserError as error:
        print(f"::error title=Sintra::{error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
