"""result.json: what a study came to, with every candidate and its verdict."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from sintra.build.graph import Graph
from sintra.build.run_state import LanguageModelBill
from sintra.core.artifact import Artifact, File
from sintra.core.judge import judge, row_to_judge, settled
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Constraint, Goal, Hardware, Status
from sintra.formats.gguf.layout import Layout
from sintra.formats.gguf.sizes import LARGEST_BLOCK, written_type
from sintra.results import formats
from sintra.results.conversion import conversion_json
from sintra.store.store import Store
from sintra.study.candidates import estimates
from sintra.study.json_types import (
    CandidateJson,
    ConstraintJson,
    DeviceJson,
    FailureJson,
    FallbackJson,
    GoalJson,
    MeasurementJson,
    ModelFileJson,
    ResultJson,
    VerdictJson,
)
from sintra.study.result_upgrade import RESULT_SCHEMA
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

ORIGINAL = Recipe("F16")  # what the 16-bit model would be as a variant of itself
IMPOSSIBLE = ("impossible", "infeasible")  # begin the reason; the latter in rounds of before
INTERVAL_90 = 3.29  # width of a 90 % interval, in standard deviations of a normal distribution


def build_result(
    workspace: Workspace,
    rounds: Sequence[Round],
    candidates: Sequence[Candidate],
    steps: dict[str, int],
    wall_s: float,
    llm: LanguageModelBill,
) -> ResultJson:
    """Build result.json (DESIGN.md), the best candidate first.

    `steps` (built, cached, failed and pulled), `wall_s` (seconds) and `llm` are of this run.
    """
    study, goal = workspace.study, workspace.study.goal
    order = settled(candidates, goal)
    last = rounds[-1] if rounds else None
    reason = (last.stop or "") if last else ""
    result: ResultJson = {
        "schema": RESULT_SCHEMA,
        "study": study.id,
        "status": study_status(order, goal, reason),
        "reason": reason,
        "model": study.model,
        "hardware": study.hardware.name,
        "device": device_json(study.hardware),
        "context": study.context,
        "window": study.probe.context,
        "goal": goal_json(goal),
        "winner": candidate_json(order[0], goal) if order else None,
        "candidates": [candidate_json(c, goal) for c in order]
        + [candidate_json(c, goal) for c in candidates if c not in order],
        "learned": last.learned if last else None,
        "rounds": len(rounds),
        "evaluations": sum(1 for c in candidates if c.value("kld_mean") is not None),
        "steps": steps,
        "llm": llm,
        "wall_s": round(wall_s, 1),
    }
    add_special_cases(result, workspace, candidates)
    return result


def add_special_cases(
    result: ResultJson, workspace: Workspace, candidates: Sequence[Candidate]
) -> None:
    """Add what only some studies have: other formats, Python code of the model, a board."""
    study, graph = workspace.study, workspace.graph()
    if study.formats != ("gguf",):
        result["formats"] = formats.format_rows(graph, workspace.store, candidates, study.goal)
    if study.trust_remote_code:
        result["trust_remote_code"] = True
    if original := original_numbers(graph, workspace.store):
        result["original"] = original
    if layout := original_layout(graph, workspace.store):
        if decoded := layout.get("decoded"):
            result["decoded"] = decoded
        if warnings := layout.get("warnings"):
            result["warnings"] = warnings
        if fallbacks := fallbacks_of(layout, study.planner.types):
            result["fallbacks"] = fallbacks
    if compared := conversion_json(graph, workspace.store):
        result["conversion"] = compared
    if graph.study.board:
        result["board"] = graph.study.board.identity


def original_numbers(graph: Graph, store: Store) -> list[MeasurementJson]:
    """Return size, memory and speed of the 16-bit GGUF, estimated like those of a variant."""
    outcome = graph.convert().outcome(store)
    if not isinstance(outcome, Artifact):
        return []
    numbers = estimates(graph, store, ORIGINAL, outcome)
    return measurements_json(Candidate(ORIGINAL, "", "", tuple(numbers.values())))


def original_layout(graph: Graph, store: Store) -> Layout | None:
    """Return the layout of the 16-bit GGUF; None while there is none."""
    outcome = graph.convert().outcome(store)
    if not isinstance(outcome, Artifact):
        return None
    layout: Layout = store.read_json(outcome, "layout.json")
    return layout


def fallbacks_of(layout: Layout, types: Sequence[str]) -> list[FallbackJson]:
    """Return for each row length that holds no whole blocks of some planned type what is written
    there instead.
    """
    weights = Counter[int]()
    for _, _, _, sides in layout["tensors"]:
        if len(sides) > 1:
            weights[sides[0]] += math.prod(sides)
    found: list[FallbackJson] = []
    for columns, count in sorted(weights.items()):
        if columns % LARGEST_BLOCK == 0:
            continue
        written = written_types(types, columns)
        share = count / weights.total()
        if written:
            found.append({"columns": columns, "share": share, "written": written})
    return found


def written_types(types: Sequence[str], columns: int) -> dict[str, str]:
    """Return those types that rows of so many elements can't have -> what is written instead."""
    written = {}
    for kind in types:
        with contextlib.suppress(KeyError):  # a preset, which is a mix of types
            if (other := written_type(kind, columns)) != kind:
                written[kind] = other
    return written


def study_status(order: Sequence[Candidate], goal: Goal, reason: str) -> Status:
    """Return a study's status from its candidates, the best first, and the reason of its end."""
    if reason.startswith(IMPOSSIBLE):
        return "impossible"
    return judge(order[0], goal).status if order else "fail"


def device_json(hardware: Hardware) -> DeviceJson:
    """Return the head of a device's profile."""
    return {
        "name": hardware.name,
        "title": hardware.title,
        "backend": hardware.backend,
        "isa": hardware.isa,
        "cores": hardware.cores,
        "ram_bytes": hardware.ram_bytes,
        "usable_bytes": hardware.usable_bytes,
    }


def goal_json(goal: Goal) -> GoalJson:
    """Return the goal's JSON form."""
    data: GoalJson = {
        "name": goal.name,
        "constraints": [cast(ConstraintJson, asdict(c)) for c in goal.constraints],
    }
    if goal.sense > 0:
        data["minimise"] = goal.optimise
    else:
        data["maximise"] = goal.optimise
    return data


def candidate_json(candidate: Candidate, goal: Goal) -> CandidateJson:
    """Return a candidate as it stands in result.json."""
    failure = candidate.failure
    return {
        "name": candidate.label,
        "probe": candidate.probe,
        "recipe": candidate.recipe.as_json(),
        "why": candidate.why,
        "author": candidate.author,
        "artifact": model_file_json(candidate.artifact) if candidate.artifact else None,
        "confidence": confidence(candidate, goal),
        "decided_on": "report" if candidate.decided else "search",
        "measurements": measurements_json(candidate),
        "predicted": candidate.predicted,
        "stated": candidate.stated,
        "round": candidate.round,
        "failure": cast(FailureJson, asdict(failure)) if failure else None,
        "verdict": verdict_json(candidate, goal),
    }


def model_file_json(file: File) -> ModelFileJson:
    """Return a variant's file or folder in JSON form."""
    return {"path": file.path, "sha256": file.sha256, "bytes": file.size}


def model_file(candidate: CandidateJson) -> ModelFileJson:
    """Return the file of a candidate that was built."""
    file = candidate["artifact"]
    assert file is not None
    return file


def measurements_json(candidate: Candidate) -> list[MeasurementJson]:
    """Return a candidate's measurements without the fields that are empty."""
    rows = (asdict(m) for m in candidate.measurements)
    filled = ({k: v for k, v in row.items() if v not in (None, "")} for row in rows)
    return [cast(MeasurementJson, row) for row in filled]


def verdict_json(candidate: Candidate, goal: Goal) -> VerdictJson:
    """Return the judge's verdict in JSON form."""
    verdict = judge(candidate, goal)
    return {
        "status": verdict.status,
        "violated": list(verdict.violated),
        "unknown": list(verdict.unknown),
        "reason": verdict.reason,
    }


def confidence(candidate: Candidate, goal: Goal) -> float:
    """Return the least probability, over all limits, that the true value holds the limit."""
    probabilities = [holds_probability(candidate, limit) for limit in goal.constraints]
    return round(min([1.0, *probabilities]), 4)


def holds_probability(candidate: Candidate, limit: Constraint) -> float:
    """Return the probability that a candidate's true value holds a limit; 0 for an unknown value.

    Errors are taken as normal: from the standard error, or from the 90 % interval of an estimate.
    """
    measured = row_to_judge(candidate, limit.metric)
    if measured is None:
        return 0.0
    spread = measured.stderr or ((measured.high or 0.0) - (measured.low or 0.0)) / INTERVAL_90
    margin = -limit.excess(measured.value)
    if not spread:
        return float(margin >= 0)
    return 0.5 * (1 + math.erf(margin / spread / math.sqrt(2)))
