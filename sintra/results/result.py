"""The end of a study: its result, the folder in outputs/, the table."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from sintra.build.run_state import LanguageModelBill
from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate, Goal
from sintra.hardware.boards import corrections
from sintra.results import formats
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

SHOWN = 12
WIDTH, NAME = 80, 18
ENDPOINT = ("SINTRA_LLM_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
DEVICE = ("name", "title", "backend", "isa", "cores", "ram_bytes", "usable_bytes")


def build(
    workspace: Workspace,
    rounds: list[Round],
    known: list[Candidate],
    steps: dict[str, int],
    wall_s: float,
    llm: LanguageModelBill,
) -> dict[str, Any]:
    """result.json as DESIGN.md lays it down."""
    goal = workspace.study.goal
    order = ranked(known, goal)
    best = order[0] if order else None
    stop = (rounds[-1]["stop"] or "") if rounds else ""
    status = (
        "infeasible"
        if stop.startswith("infeasible")
        else judge(best, goal).status
        if best
        else "unmet"
    )
    return (
        {
            "schema": 1,
            "study": workspace.study.id,
            "status": status,
            "reason": stop,
            "model": workspace.study.model,
            "hardware": workspace.study.hardware.name,
            "device": {k: getattr(workspace.study.hardware, k) for k in DEVICE},
            "context": workspace.study.probe.context,
            "goal": {
                "name": goal.name,
                "constraints": [asdict(c) for c in goal.constraints],
                "minimise" if goal.sense > 0 else "maximise": goal.optimise,
            },
            "winner": row(best, goal) if best else None,
            "candidates": [row(c, goal) for c in order]
            + [row(c, goal) for c in known if c not in order],
            "learned": rounds[-1].get("learned") if rounds else None,
            "rounds": len(rounds),
            "evaluations": sum(1 for c in known if c.value("kld_mean") is not None),
            "steps": steps,
            "llm": llm,
            "wall_s": round(wall_s, 1),
        }
        | formats_of(workspace, known)
        | own_code(workspace)
        | corrections.board_of(workspace.graph().study)
    )


def formats_of(workspace: Workspace, known: list[Candidate]) -> dict[str, Any]:
    """The formats side by side, where more than GGUF was asked for."""
    if workspace.study.formats == ("gguf",):
        return {}
    return {
        "formats": formats.by_format(
            workspace.graph(), workspace.store, known, workspace.study.goal
        )
    }


def own_code(workspace: Workspace) -> dict[str, bool]:
    """That Python code of the model's own was allowed to run, where it was."""
    return {"trust_remote_code": True} if workspace.study.trust_remote_code else {}


def row(candidate: Candidate, goal: Goal) -> dict[str, Any]:
    """A candidate as it stands in result.json."""
    verdict = judge(candidate, goal)
    file = candidate.artifact
    return {
        "recipe": candidate.recipe.as_json(),
        "why": candidate.why,
        "author": candidate.author,
        "artifact": {"path": file.path, "sha256": file.sha256, "bytes": file.size}
        if file
        else None,
        "confidence": confidence(candidate, goal),
        "decided_on": "report" if candidate.decided else "search",
        "measurements": [
            {k: v for k, v in asdict(m).items() if v not in (None, "")}
            for m in candidate.measurements
        ],
        "predicted": candidate.predicted,
        "stated": candidate.stated,
        "round": candidate.round,
        "failure": asdict(candidate.failure) if candidate.failure else None,
        "verdict": {
            "status": verdict.status,
            "violated": [list(v) for v in verdict.violated],
            "unknown": list(verdict.unknown),
            "reason": verdict.reason,
        },
    }


def confidence(candidate: Candidate, goal: Goal) -> float:
    """The least probability, over all limits, that the true value holds it: normal errors from the
    standard error, or from the 90 % interval (3.29 standard deviations wide) of an estimate.
    """
    worst = 1.0
    for limit in goal.constraints:
        found = candidate.find(limit.metric)
        if found is None:
            return 0.0
        spread = found.stderr or ((found.high or 0.0) - (found.low or 0.0)) / 3.29
        margin = -limit.excess(found.value)
        worst = min(
            worst,
            0.5 * (1 + math.erf(margin / spread / math.sqrt(2))) if spread else float(margin >= 0),
        )
    return round(worst, 4)
