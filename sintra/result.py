"""The end of a study: its result, the folder in outputs/, the table."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra import __version__, history
from sintra.graph import Graph
from sintra.judge import judge, ranked
from sintra.rounds import Round
from sintra.stage import tool_version
from sintra.store import Store, link_or_copy, write_atomic
from sintra.study import Workspace
from sintra.types import Candidate, Goal, Verdict, canonical, sha256

SHOWN = 12
PER_RUN = ("steps", "wall_s", "llm")
TOOLS = ("llama-cpp-python", "torch", "transformers", "doit", "hydra-core", "gguf")


def build(
    place: Workspace, rounds: list[Round], known: list[Candidate], steps: dict[str, int], wall_s: float
) -> dict[str, Any]:
    """result.json as DESIGN.md lays it down."""
    goal = place.study.goal
    order = ranked(known, goal)
    best = order[0] if order else None
    stop = (rounds[-1]["stop"] or "") if rounds else ""
    status = "infeasible" if stop.startswith("infeasible") else judge(best, goal).status if best else "unmet"
    return {
        "schema": 1, "study": place.study.id, "status": status, "reason": stop, "model": place.study.model,
        "hardware": place.study.hardware.name,
        "goal": {"name": goal.name, "constraints": [asdict(c) for c in goal.constraints],
                 "minimise" if goal.sense > 0 else "maximise": goal.optimise},
        "winner": row(best, goal) if best else None,
        "candidates": [row(c, goal) for c in order] + [row(c, goal) for c in known if c not in order],
        "rounds": len(rounds), "evaluations": sum(1 for c in known if c.value("kld_mean") is not None),
        "steps": steps, "llm": llm_total(), "wall_s": round(wall_s, 1),
    }  # fmt: skip


def llm_total() -> dict[str, float]:
    """What this run has asked of a language model."""
    advisor = sys.modules.get("sintra.llm.advisor")  # not imported where nobody was asked
    return advisor.run_total() if advisor else {"calls": 0, "tokens": 0, "usd": 0.0}


def row(candidate: Candidate, goal: Goal) -> dict[str, Any]:
    """A candidate as it stands in result.json."""
    verdict = judge(candidate, goal)
    file = candidate.artifact
    return {
        "recipe": candidate.recipe.as_json(), "why": candidate.why, "author": candidate.author,
        "artifact": {"path": "model.gguf", "sha256": file.sha256, "bytes": file.size} if file else None,
        "confidence": confidence(candidate, goal), "decided_on": "report" if candidate.decided else "search",
        "measurements": [{k: v for k, v in asdict(m).items() if v not in (None, "")} for m in candidate.measurements],
        "predicted": candidate.predicted, "failure": asdict(candidate.failure) if candidate.failure else None,
        "verdict": {"status": verdict.status, "violated": [list(v) for v in verdict.violated], "unknown": list(verdict.unknown),
                    "reason": verdict.reason},
    }  # fmt: skip


def confidence(candidate: Candidate, goal: Goal) -> float:
    """The least probability, over all limits, that the true value holds it: normal errors from the standard error, or
    from the 90 % interval (3.29 standard deviations wide) of an estimate."""
    worst = 1.0
    for limit in goal.constraints:
        found = candidate.find(limit.metric)
        if found is None:
            return 0.0
        spread = found.stderr or ((found.high or 0.0) - (found.low or 0.0)) / 3.29
        margin = -limit.excess(found.value)
        worst = min(worst, 0.5 * (1 + math.erf(margin / spread / math.sqrt(2))) if spread else float(margin >= 0))
    return round(worst, 4)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two results say the same, apart from what is of a single run."""
    return canonical({k: v for k, v in one.items() if k not in PER_RUN}) == canonical(
        {k: v for k, v in two.items() if k not in PER_RUN}
    )


def deliver(place: Workspace, result: dict[str, Any], known: list[Candidate], graph: Graph) -> None:
    """Write outputs/<study>/ unless it says so already, point outputs/latest to it, append to the history."""
    out = place.outputs
    with contextlib.suppress(OSError, ValueError):
        if same(json.loads((out / "result.json").read_text()), result) and sound(out, result):
            point(place.root, place.study.id)
            return
    out.mkdir(parents=True, exist_ok=True)
    winner = result["winner"]
    if winner:
        materialise(place.store, winner["artifact"]["sha256"], out / "model.gguf")
        write_atomic(out / "recipe.yaml", recipe_yaml(result))
    else:
        (out / "model.gguf").unlink(missing_ok=True)
    write_atomic(out / "result.json", json.dumps(result, indent=1) + "\n")
    write_atomic(out / "manifest.json", json.dumps(manifest(place, result, graph), indent=1) + "\n")
    point(place.root, place.study.id)
    history.append(
        place.store.root / "history.db", result, sha256(canonical({k: v for k, v in result.items() if k not in PER_RUN}))
    )


def sound(out: Path, result: dict[str, Any]) -> bool:
    """Whether the folder still holds the winner, by size."""
    if not result["winner"]:
        return True
    return bool((out / "model.gguf").stat().st_size == result["winner"]["artifact"]["bytes"])


def materialise(store: Store, digest: str, target: Path) -> None:
    """Put a blob at a path: a hard link where the filesystem allows one (read-only, like the blob), else a copy."""
    link_or_copy(store.blob(digest), target)


def recipe_yaml(result: dict[str, Any]) -> str:
    """The winner's recipe, replayable with `planner=replay planner.replay=recipe.yaml`."""
    recipe = result["winner"]["recipe"]
    head = f"# {result['study']}: doit optimize ... planner=replay planner.replay=outputs/{result['study']}/recipe.yaml\n"
    return head + "recipes:\n- " + json.dumps(recipe) + "\n"


def manifest(place: Workspace, result: dict[str, Any], graph: Graph) -> dict[str, Any]:
    """Where everything came from: digests, versions, texts."""
    files = {}
    for path in sorted(place.outputs.iterdir()):
        if path.name == "model.gguf" and result["winner"]:
            files[path.name] = result["winner"]["artifact"]["sha256"]
        elif path.is_file() and path.name != "manifest.json" and not path.name.startswith("."):
            files[path.name] = sha256(path.read_text())
    return {
        "study": place.study.id, "sintra": __version__, "files": files, "overrides": list(place.study.overrides),
        "source": {"kind": graph.source.kind, "digest": graph.source.digest},
        "texts": {role: text.digest for role, text in graph.texts.items()},
        "tools": {name: tool_version(name) for name in TOOLS},
    }  # fmt: skip


def point(root: Path, study: str) -> None:
    """outputs/latest -> the study's folder, in one step."""
    latest = root / "outputs" / "latest"
    if latest.is_symlink() and os.readlink(latest) == study:
        return
    temporary = latest.with_name(f".latest.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(study)
    os.replace(temporary, latest)


def table(result: dict[str, Any], known: list[Candidate], goal: Goal) -> str:
    """The best candidates and every stock preset, the best first, in 80 columns."""
    everything = ranked(known, goal)
    order = [c for i, c in enumerate(everything) if i < SHOWN or c.decided or not c.recipe.tensors]
    lines = [f"{'variant':<18}{'MB':>8}{'KLD (nats)':>18}{'same top':>10}{'tok/s*':>9}{'RAM MB*':>9}  verdict"]
    for candidate in order:
        lines.append(_line(candidate, judge(candidate, goal)))
    for candidate in known:
        if candidate.failure:
            lines.append(f"{candidate.recipe.name:<18}  failed: {candidate.failure.kind}: {candidate.failure.message}"[:160])
    if len(order) < len(everything):
        lines.append(f"and {len(everything) - len(order)} more that were measured on the way: result.json has them all")
    lines.append(f"* estimated for {result['hardware']}; KLD and same top measured against the 16-bit model, +- standard error")
    return "\n".join(lines)


def _line(candidate: Candidate, verdict: Verdict) -> str:
    def show(metric: str, scale: float, digits: int) -> str:
        value = candidate.value(metric)
        return "-" if value is None else f"{value / scale:.{digits}f}"

    kld = candidate.find("kld_mean")
    quality = f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
    speed = candidate.value("device_tg_tps")
    return (f"{candidate.recipe.name:<18}{show('size_bytes', 1e6, 2):>8}{quality:>18}{show('same_top', 0.01, 1) + ' %':>10}"
            f"{'-' if speed is None else f'{speed:.3g}':>9}{show('device_ram_bytes', 1e6, 0):>9}  "
            f"{words(candidate, verdict)}")  # fmt: skip


def words(candidate: Candidate, verdict: Verdict) -> str:
    """A verdict in a word or two."""
    if verdict.violated:
        return f"unmet: {verdict.violated[0][0]}"
    if verdict.status == "undecided" and not candidate.decided and not verdict.unknown:
        return "holds on search"
    return verdict.status


def advice(result: dict[str, Any]) -> str:
    """One line: what came out, and what to do next."""
    folder = f"outputs/{result['study']}"
    if not result["winner"]:
        return f"{result['status']}: {result['reason'] or 'no variant could be built'}"
    best = result["winner"]
    name = recipe_name(best["recipe"])
    searched = any(c["recipe"]["tensors"] for c in result["candidates"])
    stock = ", a stock preset that no mix could beat" if searched and not best["recipe"]["tensors"] else ""
    if result["status"] == "met":
        return f"met: {name}, {best['artifact']['bytes'] / 1e6:.2f} MB{stock}, in {folder}/model.gguf; next: doit export_ollama"
    if result["status"] == "undecided" and "device_tg_tps_sustained" in best["verdict"]["unknown"]:
        return f"undecided: {name} is the best; its sustained speed is only simulated: goal.accept_simulated=true takes that"
    if result["status"] == "undecided":
        return f"undecided: {name} is the best so far; a larger max_rounds or more probe.report_tokens would tell"
    metric, value, limit, by = best["verdict"]["violated"][0]
    return (f"unmet: the best is {name}, whose {metric} is {value:.6g} where the limit is {limit:.6g} (off by {by:.3g}); "
            f"it is in {folder}/model.gguf; relax that limit, or try hardware with more room")  # fmt: skip


def recipe_name(data: dict[str, Any]) -> str:
    """The short name of a recipe's JSON."""
    from sintra.types import Recipe

    return Recipe.of(data).name
