"""Rounds: what planners proposed, as files; what is known of each candidate; and what comes next."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra import plugins
from sintra.graph import Graph, Step
from sintra.hardware.estimate import RUNTIME_BYTES, Shape, estimate, kv_bytes
from sintra.judge import impossible, judge, ranked
from sintra.planning import History
from sintra.report import NAME, parse
from sintra.source import safetensors_header
from sintra.store import Store, write_atomic
from sintra.study import Workspace
from sintra.types import Artifact, Candidate, Failure, Measurement, Proposal, Recipe, Source, Study

Round = dict[str, Any]
FINALISTS = 2


def path_of(place: Workspace, number: int) -> Path:
    """The file of a round, counted from 1."""
    return place.folder / f"round-{number:02}.json"


def recorded(place: Workspace) -> list[Round]:
    """All rounds so far."""
    found: list[Round] = []
    while (path := path_of(place, len(found) + 1)).exists():
        found.append(json.loads(path.read_bytes()))
    return found


def proposals(given: Round) -> list[Proposal]:
    """A round's proposals."""
    return [Proposal(**{**p, "recipe": Recipe.of(p["recipe"])}) for p in given["proposals"]]


def steps_of(graph: Graph, given: Round) -> list[Step]:
    """Every step that a round needs, inputs first, each once."""
    found: dict[str, Step] = {}
    for proposal in proposals(given):
        for end in graph.variant(proposal.recipe, proposal.level).ends():
            for step in end.all():
                found.setdefault(step.name, step)
    return list(found.values())


def reasons(graph: Graph, given: Round) -> dict[str, str]:
    """Step name -> who proposed it and why, for the steps that a recipe has to itself."""
    found = {}
    for proposal in proposals(given):
        variant = graph.variant(proposal.recipe, proposal.level)
        for step in (variant.quantize, *variant.ends()):
            found[step.name] = f"{proposal.author}: {proposal.why}"
    return found


def candidates(graph: Graph, store: Store, rounds: list[Round]) -> list[Candidate]:
    """Every recipe proposed so far with all that the store knows of it."""
    levels: dict[Recipe, list[Proposal]] = {}
    for proposal in (p for r in rounds for p in proposals(r)):
        levels.setdefault(proposal.recipe, []).append(proposal)
    return [candidate(graph, store, recipe, given) for recipe, given in levels.items()]


def candidate(graph: Graph, store: Store, recipe: Recipe, given: list[Proposal]) -> Candidate:
    """One recipe: numbers of the report text replace those of the search text."""
    numbers: dict[str, Measurement] = {}
    made = graph.quantize(recipe).outcome(store)
    failure = made if isinstance(made, Failure) else None
    file, decided = None, False
    if isinstance(made, Artifact):
        file = next(f for f in made.files if f.path == "model.gguf")
        shape = Shape.of(store.read_json(made, "layout.json"))
        numbers["size_bytes"] = Measurement("size_bytes", file.size, "bytes", "exact")
        for row in estimate(shape, graph.study.hardware, graph.study.probe["context"]):
            numbers[row.metric] = row
    for level in sorted({p.level for p in given}, reverse=True):
        for step in graph.variant(recipe, level).ends():
            outcome = step.outcome(store)
            if isinstance(outcome, Failure):
                failure = outcome
            elif isinstance(outcome, Artifact):
                rows = parse(store.read_json(outcome, NAME))
                if step.stage == "quality":
                    decided = level == "report" or decided
                    for row in rows:
                        if level == "report" or row.metric not in numbers:
                            numbers[row.metric] = row
                else:
                    numbers.update({row.metric: row for row in rows})
    return Candidate(recipe, given[0].why, given[0].author, tuple(numbers.values()), file, failure, decided)


def next_round(graph: Graph, store: Store, rounds: list[Round]) -> Round:
    """What to do next: more variants, a decision on the report text, or to stop (with the reason)."""
    study = graph.study
    known = candidates(graph, store, rounds)
    number = len(rounds) + 1
    if number == 1 and (stop := hopeless(study, graph.source)):
        return _round(number, [], stop)
    if number <= study.max_rounds:
        fresh = [p for p in plan(graph, store, known) if p.recipe not in {c.recipe for c in known}]
        if fresh:
            return _round(number, fresh, None)
    finalists = deciding(study, known)
    if finalists:
        return _round(number, finalists, None)
    return _round(number, [], "decided" if known else "the planner proposed nothing")


def plan(graph: Graph, store: Store, known: list[Candidate]) -> list[Proposal]:
    """Ask the study's planner."""
    base = graph.convert().outcome(store)
    layers = store.read_json(base, "layout.json")["shape"]["layers"] if isinstance(base, Artifact) else None
    proposed: list[Proposal] = plugins.load("planners", graph.study.planner)(graph.study, History(tuple(known), layers))
    return proposed


def deciding(study: Study, known: list[Candidate]) -> list[Proposal]:
    """Finalists that must be measured on the report text before the study can end: the best that isn't refuted, until
    one of them holds; or, where none can, the one that misses the limits least."""
    order = ranked(known, study.goal)
    open_ones = []
    for found in order:
        if judge(found, study.goal).status == "met":
            break
        if not found.decided and (judge(found, study.goal).status == "undecided" or found is order[0]):
            open_ones.append(found)
    why = "among the best on the search text: measured on the report text"
    return [Proposal(c.recipe, why, "study", "report") for c in open_ones[:FINALISTS]]


def _round(number: int, given: list[Proposal], stop: str | None) -> Round:
    return {"round": number, "proposals": [asdict(p) for p in given], "stop": stop}


def write_round(place: Workspace, given: Round) -> None:
    """Record a round, whole or not at all."""
    write_atomic(path_of(place, given["round"]), json.dumps(given, indent=1, sort_keys=True) + "\n")


def write_keys(place: Workspace, graph: Graph, known: list[Round]) -> None:
    """Record which keys this study stands on: the roots of `doit gc`."""
    keys = {s.key(place.store) for r in known for s in steps_of(graph, r)} - {None}
    text = json.dumps(sorted(str(k) for k in keys))
    path = place.folder / "keys.json"
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text)


BITS = {"Q2_K": 2.625, "Q3_K_S": 3.4375, "Q4_0": 4.5, "Q8_0": 8.5, "IQ2_XXS": 2.0625, "IQ4_XS": 4.25}
SMALLEST = 1.5625


def hopeless(study: Study, pin: Source) -> str | None:
    """Why no variant can hold the limits, where arithmetic on a local model's headers shows it."""
    if pin.kind != "folder":
        return None
    bounds = lower_bounds(study, Path(pin.locator))
    found = impossible(study.goal, bounds)
    if found is None:
        return None
    limit, best = found
    units = {"size_bytes": (1e6, "MB"), "device_ram_bytes": (2**30, "GiB"), "device_tg_tps": (1, "tokens/s")}
    scale, unit = units[limit.metric]
    return (f"infeasible: {limit.option} asks for {limit.metric} {limit.op} {limit.limit / scale:.4g} {unit}, "
            f"and no variant can do better than {best / scale:.4g} {unit}")  # fmt: skip


def lower_bounds(study: Study, folder: Path) -> dict[str, float]:
    """The best size, memory and decode speed that any recipe of the planner could reach, from the tensors' shapes."""
    config = json.loads((folder / "config.json").read_text())
    layers = config.get("num_hidden_layers", 1)
    kept = max(0, layers - study.planner_options.get("max_dropped", 0)) / layers
    types = study.planner_options.get("types") or []
    bits = min((BITS.get(t, SMALLEST if t not in KNOWN_LARGE else 3.4) for t in types), default=SMALLEST)
    inner = outer = 0
    for path in folder.glob("*.safetensors"):
        for name, tensor in safetensors_header(path).items():
            if len(tensor["shape"]) >= 2:
                count = 1
                for side in tensor["shape"]:
                    count *= side
                inner, outer = (inner + count, outer) if ".layers." in name else (inner, outer + count)
    size = (inner * kept + outer) * bits / 8
    heads = config.get("num_attention_heads", 1)
    shape = Shape(int(size), 0, True, inner + outer, round(layers * kept), config.get("hidden_size", 0), heads,
                  config.get("num_key_value_heads", heads),
                  config.get("head_dim") or config.get("hidden_size", 0) // heads, config.get("vocab_size", 0))  # fmt: skip
    embedding = config.get("vocab_size", 0) * config.get("hidden_size", 0) * bits / 8
    read = max(1.0, size - (0 if config.get("tie_word_embeddings") else embedding))
    device = study.hardware
    return {"size_bytes": size, "device_ram_bytes": size + kv_bytes(shape, study.probe["context"]) + RUNTIME_BYTES,
            "device_tg_tps": device.efficiency * device.bandwidth / read}  # fmt: skip


KNOWN_LARGE = frozenset(
    ["Q3_K_M", "Q3_K_L", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "F16", "BF16"]
)
