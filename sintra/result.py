"""The end of a study: its result, the folder in outputs/, the table."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra import __version__, delivery, history, latest, truth
from sintra.canonical import canonical, sha256
from sintra.graph import Graph
from sintra.judge import judge, ranked
from sintra.rounds import Round
from sintra.sealed import sealed, unsealed
from sintra.stage import tool_version
from sintra.store import write_atomic
from sintra.study import Workspace
from sintra.types import Artifact, Candidate, Goal, Verdict

SHOWN = 12
WIDTH, NAME = 80, 18
ENDPOINT = ("SINTRA_LLM_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL")
PAGES = ("ab.html", "surgery.html", "report.html")  # drawn from the rest, by their own commands
DEVICE = ("name", "title", "backend", "isa", "cores", "ram_bytes", "usable_bytes")
PER_RUN = ("steps", "wall_s", "llm")
TOOLS = ("llama-cpp-python", "torch", "transformers", "doit", "hydra-core", "gguf")


def build(
    place: Workspace,
    rounds: list[Round],
    known: list[Candidate],
    steps: dict[str, int],
    wall_s: float,
) -> dict[str, Any]:
    """result.json as DESIGN.md lays it down."""
    goal = place.study.goal
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
            "study": place.study.id,
            "status": status,
            "reason": stop,
            "model": place.study.model,
            "hardware": place.study.hardware.name,
            "device": {k: getattr(place.study.hardware, k) for k in DEVICE},
            "context": place.study.probe["context"],
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
            "llm": llm_total(),
            "wall_s": round(wall_s, 1),
        }
        | formats_of(place, known)
        | own_code(place)
        | truth.board_of(place.graph().study)
    )


def formats_of(place: Workspace, known: list[Candidate]) -> dict[str, Any]:
    """The formats side by side, where more than GGUF was asked for."""
    if place.study.formats == ("gguf",):
        return {}
    return {"formats": delivery.by_format(place.graph(), place.store, known, place.study.goal)}


def own_code(place: Workspace) -> dict[str, bool]:
    """That Python code of the model's own was allowed to run, where it was."""
    return {"trust_remote_code": True} if place.study.model_options.get("trust_remote_code") else {}


def llm_total() -> dict[str, float]:
    """What this run has asked of a language model."""
    advisor = sys.modules.get("sintra.llm.advisor")  # not imported where nobody was asked
    return advisor.run_total() if advisor else {"calls": 0, "tokens": 0, "usd": 0.0}


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


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two results say the same, apart from what is of a single run."""
    return canonical({k: v for k, v in one.items() if k not in PER_RUN}) == canonical(
        {k: v for k, v in two.items() if k not in PER_RUN}
    )


def deliver(
    place: Workspace,
    result: dict[str, Any],
    known: list[Candidate],
    rounds: list[Round],
    graph: Graph,
) -> str:
    """Write outputs/<study>/ unless it says so already, append to the history, and point
    outputs/latest to it if it has a winner that is sound; what is wrong with it otherwise, in a
    line.
    """
    out, winner = place.outputs, result["winner"]
    what = delivery.wanted(graph, place.store, winner, known, place.study.goal)
    with contextlib.suppress(OSError, ValueError):
        unchanged = same(json.loads((out / "result.json").read_text()), result)
        if unchanged and delivery.sound(place.store, out, what) and as_written(out):
            remember(place, result)
            return latest.promote(place.root, place.store, place.study.id, False) if winner else ""
    out.mkdir(parents=True, exist_ok=True)
    for name in PAGES:  # of another winner
        (out / name).unlink(missing_ok=True)
    delivery.put(place.store, out, what)
    more = delivery.put_extra(place.store, out, delivery.extra(graph, place.store, winner))
    if winner:
        write_atomic(out / "recipe.yaml", recipe_yaml(result))
    write_atomic(out / "result.json", json.dumps(result, indent=1) + "\n")
    write_atomic(out / "rounds.json", json.dumps(rounds, indent=1) + "\n")
    # Last of the files: until it is there the folder counts as unwritten, so that a kill in between
    # loses none of the above.
    write_atomic(
        out / "manifest.json",
        sealed(json.dumps(manifest(place, what, graph, more), indent=1) + "\n"),
    )
    remember(place, result)
    return latest.promote(place.root, place.store, place.study.id, True) if winner else ""


def remember(place: Workspace, result: dict[str, Any]) -> None:
    """Into the history, unless its last word on this study is the same; a cache that can't be
    written is left as it is.
    """
    digest = sha256(canonical({k: v for k, v in result.items() if k not in PER_RUN}))
    try:
        history.append(place.store.root / "history.db", result, digest)
    except (sqlite3.OperationalError, OSError) as error:
        print(f"sintra: the history can't be written: {error}", file=sys.stderr)


def as_written(out: Path) -> bool:
    """Whether the small files of a result's folder are those that its manifest names."""
    said = unsealed((out / "manifest.json").read_bytes())
    small = ("result.json", "rounds.json", "recipe.yaml")
    return said is not None and all(
        sha256((out / n).read_text()) == d for n, d in said["files"].items() if n in small
    )


def recipe_yaml(result: dict[str, Any]) -> str:
    """The winner's recipe, replayable with `planner=replay planner.replay=recipe.yaml`."""
    recipe = result["winner"]["recipe"]
    head = (
        f"# {result['study']}: doit optimize ... planner=replay "
        f"planner.replay=outputs/{result['study']}/recipe.yaml\n"
    )
    return head + "recipes:\n- " + json.dumps(recipe) + "\n"


def manifest(
    place: Workspace, what: dict[str, Artifact], graph: Graph, more: dict[str, str]
) -> dict[str, Any]:
    """Where everything came from: digests, versions, texts. more: digests of what plugins made."""
    files = delivery.digests(what) | more
    for path in sorted(place.outputs.iterdir()):
        if (
            path.is_file()
            and path.name not in ("manifest.json", "model.gguf", *PAGES)
            and not path.name.startswith(".")
        ):
            files[path.name] = sha256(path.read_text())
    return {
        "study": place.study.id,
        "sintra": __version__,
        "files": files,
        "overrides": list(place.study.overrides),
        "source": {"kind": graph.source.kind, "digest": graph.source.digest},
        "texts": {role: text.digest for role, text in graph.texts.items()},
        "tools": {name: tool_version(name) for name in TOOLS},
    } | delivery.locks(graph, place.store, what)


def table(result: dict[str, Any], known: list[Candidate], goal: Goal) -> str:
    """The best candidates and every stock preset, the best first, in 80 columns."""
    everything = ranked(known, goal)
    order = [c for i, c in enumerate(everything) if i < SHOWN or c.decided or not c.recipe.tensors]
    lines = [
        (
            f"{'variant':<{NAME}}{'MB':>8} "
            f"{'KLD (nats)':>18}{'top %':>6}{'tok/s*':>7}{'MB RAM*':>8}  "
            "verdict"
        )
    ]
    for candidate in order:
        lines.append(_line(candidate, judge(candidate, goal)))
    for candidate in known:
        if candidate.failure:
            lines.append(
                
                    f"{short(candidate.recipe.name):<{NAME}}  failed: {candidate.failure.kind}: "
                    f"{candidate.failure.message}"
                
            )
    if len(order) < len(everything):
        lines.append(
            
                f"and {len(everything) - len(order)} more that were measured on the way: "
                "result.json "
                "has them all"
            
        )
    lines += task_lines(order)
    unless = ", where no board was asked" if "board" in result else ""
    lines += [
        (
            f"* estimated for {result['hardware']}{unless}; KLD (+- standard error) and the share "
            "of "
            "equal top"
        ),
        "tokens are measured against the 16-bit model",
    ]
    if result.get("trust_remote_code"):
        lines.append(
            f"{result['model']} was read with Python code of its own (model.trust_remote_code=true)"
        )
    lines += truth.lines(order)
    if "formats" in result:
        best = order[0].recipe.name if order else None
        lines += ["", delivery.format_table(result["formats"], known, best)]
    return "\n".join(lines)


def task_lines(order: list[Candidate]) -> list[str]:
    """What the tasks said of each candidate whose quality is decided."""
    lines = []
    for candidate in (c for c in order if c.decided):
        for name in [
            m.metric.split(":")[1]
            for m in candidate.measurements
            if re.fullmatch(r"task:[^:]+:retention", m.metric)
        ]:
            kept, same = (
                candidate.find(f"task:{name}:retention"),
                candidate.find(f"task:{name}:agreement"),
            )
            assert kept is not None
            answers = f", {same.value:.1%} of {same.n} answers the same" if same else ""
            lines.append(
                
                    f"task {name}: {candidate.recipe.name} keeps {kept.value:.4f} "
                    f"+-{kept.stderr or 0:.4f} of the score{answers}"
                
            )
    return lines


def _line(candidate: Candidate, verdict: Verdict) -> str:
    def show(metric: str, scale: float, digits: int) -> str:
        value = candidate.value(metric)
        return "-" if value is None else f"{value / scale:.{digits}f}"

    kld = candidate.find("kld_mean")
    quality = f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
    speed = candidate.value("device_tg_tps")
    rate = "-" if speed is None else f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"
    return (
        f"{short(candidate.recipe.name):<{NAME}}{show('size_bytes', 1e6, 2):>8} "
        f"{quality:>18}{show('same_top', 0.01, 1):>6}"
        f"{rate:>7}{show('device_ram_bytes', 1e6, 0):>8}  {words(candidate, verdict)}"[:WIDTH]
    )


def short(name: str) -> str:
    """A variant's name in the table's first column; result.json has all of it."""
    return name if len(name) < NAME else f"{name[: NAME - 9]}..{name[-6:]}"


def words(candidate: Candidate, verdict: Verdict) -> str:
    """A verdict in a word or two."""
    if verdict.violated:
        return f"no: {verdict.violated[0][0].removeprefix('device_')}"
    if verdict.status == "undecided" and not candidate.decided and not verdict.unknown:
        return "so far yes"
    return verdict.status


def advice(result: dict[str, Any]) -> str:
    """One line: what came out, and what to do next."""
    folder = f"outputs/{result['study']}"
    if not result["winner"]:
        return f"{result['status']}: {result['reason'] or 'no variant could be built'}"
    best = result["winner"]
    name = recipe_name(best["recipe"])
    searched = any(c["recipe"]["tensors"] for c in result["candidates"])
    stock = (
        ", a stock preset that no mix could beat"
        if searched and not best["recipe"]["tensors"]
        else ""
    )
    path = best["artifact"]["path"]
    next_step = "; next: doit export_ollama" if path == "model.gguf" else ""
    if result["status"] == "met":
        return (
            f"met: {name}, {best['artifact']['bytes'] / 1e6:.2f} MB{stock}, in "
            f"{folder}/{path}{next_step}"
        )
    if result["status"] == "undecided" and "device_tg_tps_sustained" in best["verdict"]["unknown"]:
        return (
            f"undecided: {name} is the best; its sustained speed is only simulated: "
            "goal.accept_simulated=true takes that"
        )
    if result["status"] == "undecided":
        return (
            f"undecided: {name} is the best so far; a larger max_rounds or more "
            "probe.report_tokens would tell"
        )
    metric, value, limit, by = best["verdict"]["violated"][0]
    return (
        f"unmet: the best is {name}, whose {metric} is {value:.6g} where the limit is {limit:.6g} "
        f"(off by {by:.3g}); "
        f"it is in {folder}/{path}; relax that limit, or try hardware with more room"
    )


def adviser_at_hand(planner: str) -> str:
    """How to ask a language model, where the environment has a key or an address and nobody was
    asked; else "". None is ever asked because of that alone.
    """
    if planner in ("llm", "hybrid", "replay") or not any(os.environ.get(name) for name in ENDPOINT):
        return ""
    from sintra.llm.budget import bare  # not on the no-op path

    url = os.environ.get("OPENAI_BASE_URL") or "https://HOST/v1"
    return (
        f"a language model may know more: add planner=hybrid planner.base_url={bare(url)} "
        "planner.model=NAME"
    )


def recipe_name(data: dict[str, Any]) -> str:
    """The short name of a recipe's JSON."""
    from sintra.recipe import Recipe

    return Recipe.of(data).name
