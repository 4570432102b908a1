"""What a study knows of its winner, tensor by tensor: types, bits, sensitivities, what was left out
and what that cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sintra.core.recipe import Recipe
from sintra.core.types import Artifact
from sintra.formats.gguf.sizes import resolve_types
from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.planning.solver.search import opened, probes_of
from sintra.planning.solver.surrogate import Surrogate
from sintra.planning.state import History
from sintra.results.finished import Delivered
from sintra.study import candidates, round_files
from sintra.study.planner_state import history

Layout = dict[str, Any]
MIXED = ("solver", "hybrid", "llm", "imatrix_mse", "optuna", "random")


def anatomy(done: Delivered, say: Callable[[str], None]) -> dict[str, Any]:
    """{"model", "hardware", "winner": figure, "stock": figure or None, "cost": words or None,
    "probes": rows, "modelled": whether the study fitted a model of the damage}.

    A figure: {"name", "bytes", "kld", "kld_error", "bits", "dropped", "left_out", "norms",
    "tensors": {original name: cell}}, a cell: {"type", "bits" a weight, "bytes", "shape", "share":
    of the damage that the model of it foresees, "error": relative error of the layer's output},
    share and error None where nothing is known.
    """
    base = _layout(done, done.graph.convert(), say)
    known = candidates.candidates(done.graph, done.store, done.rounds)
    seen = history(
        done.graph, done.store, [round_files.proposals(r) for r in done.rounds], known, None
    )
    model = fitted(done, seen)
    winner = figure(done, done.recipe, base, seen, model, say)
    stock = nearest_stock(done, seen)
    return {
        "model": done.workspace.study.model,
        "hardware": done.workspace.study.hardware.title,
        "winner": winner,
        "layers": base["shape"]["layers"],
        "stock": figure(done, stock, base, seen, None, say) if stock else None,
        "cost": cost(done, seen, winner) if done.recipe.cut else None,
        "probes": probed(done, seen, model),
        "modelled": model is not None,
    }


def _layout(done: Delivered, step: Any, say: Callable[[str], None]) -> Layout:
    found: Layout = done.store.read_json(done.made(step, say), "layout.json")
    return found


def fitted(done: Delivered, seen: History) -> Surrogate | None:
    """The solver's model of the damage, where the study measured enough mixes for one."""
    if done.workspace.study.planner.name not in MIXED or not seen.tried:
        return None
    return opened(done.workspace.study, seen)[1]


def figure(
    done: Delivered,
    recipe: Recipe,
    base: Layout,
    seen: History,
    model: Surrogate | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """One variant, by the names that its tensors have in the original."""
    layout = _layout(done, done.graph.quantize(recipe), say)
    held = {t[0]: t for t in layout["tensors"]}
    back = {new: t[0] for t in base["tensors"] if (new := renumber_tensor(t[0], list(recipe.drop)))}
    cells = {
        back[name]: cell(row) for name, row in held.items() if len(row[3]) > 1 and name in back
    }
    shares = (
        foreseen(model, {name: c["type"] for name, c in cells.items()}) if recipe.complete else {}
    )
    errors = distortions(seen, recipe, {name: c["type"] for name, c in cells.items()})
    for name, found in cells.items():
        found |= {"share": shares.get(name), "error": errors.get(name)}
    kld = seen.kld(recipe, "report") or seen.kld(recipe, "search")
    weights = sum(math.prod(held[n][3]) for n in held if len(held[n][3]) > 1)
    return {
        "name": recipe.name,
        "bytes": sum(t[2] for t in layout["tensors"]),
        "kld": kld.value if kld else None,
        "kld_error": kld.stderr if kld else None,
        "bits": 8 * sum(c["bytes"] for c in cells.values()) / weights,
        "dropped": list(recipe.drop),
        "left_out": recipe.left_out,
        "kv": recipe.kv,
        "tensors": cells,
        "norms": sorted({t[1] for t in layout["tensors"] if len(t[3]) == 1}),
        "whole": [t[0] for t in base["tensors"] if len(t[3]) > 1],
    }


def cell(row: list[Any]) -> dict[str, Any]:
    """A tensor of a layout: [name, type, bytes, shape]."""
    return {
        "type": row[1],
        "bits": 8 * row[2] / math.prod(row[3]),
        "bytes": row[2],
        "shape": row[3],
    }


def foreseen(model: Surrogate | None, types: dict[str, str]) -> dict[str, float]:
    """Each tensor's share of the damage that the fitted model foresees; nothing where it doesn't
    know one of the types.
    """
    weights = model.weights() if model else {}
    if any(t not in weights.get(n, {}) for n, t in types.items()):
        return {}
    parts = {n: weights[n][t] for n, t in types.items()}
    total = sum(parts.values())
    return {n: p / total for n, p in parts.items()} if total else {}


def distortions(seen: History, recipe: Recipe, types: dict[str, str]) -> dict[str, float]:
    """The relative error of each layer's output, tr(E H E') / tr(W H W'), as measured on the
    uniform file of its type that was rounded the same way; nothing for a stock preset, which isn't
    put together from those.
    """
    if not recipe.complete or recipe.finished:
        return {}
    same = {
        r.tensors[0][1]: d
        for r, d in seen.distortion.items()
        if (r.rounding, r.importance) == (recipe.rounding, recipe.importance)
    }
    return {n: same[t][n]["output"] for n, t in types.items() if n in same.get(t, {})}


def nearest_stock(done: Delivered, seen: History) -> Recipe | None:
    """The stock preset that the study made whose size is nearest to the winner's."""
    own = done.result["winner"]["artifact"]["bytes"]
    sizes = {r: n for r, n in seen.bytes_of.items() if not r.tensors and not r.cut}
    sizes |= {
        c.recipe: c.artifact.size
        for c in seen.candidates
        if c.artifact and not c.recipe.tensors and not c.recipe.cut
    }
    sizes.pop(done.recipe, None)
    plain = {r: n for r, n in sizes.items() if r.rounding == "nearest"}
    return min(plain, key=lambda r: (abs(plain[r] - own), r.importance), default=None)


def cost(done: Delivered, seen: History, winner: dict[str, Any]) -> str:
    """What leaving blocks out did to the KLD, against a measured variant with the same types and
    all blocks.
    """
    types = {n: c["type"] for n, c in winner["tensors"].items()}
    for other in seen.candidates:
        if other.recipe.cut or not isinstance(
            done.graph.quantize(other.recipe).outcome(done.store), Artifact
        ):
            continue
        same = resolve_types(other.recipe.tensors, types)
        whole, mine = seen.kld(other.recipe, "search"), seen.kld(done.recipe, "search")
        if same == types and whole and mine:
            return (
                f"{mine.value:.5f} nats on the search text against {whole.value:.5f} with all "
                f"blocks and the same types: {mine.value - whole.value:.5f} more"
            )
    return (
        "no variant with the same types and all blocks was measured, so what the drop cost alone "
        "is not known"
    )


def probed(
    done: Delivered, seen: History, model: Surrogate | None
) -> list[tuple[str, str, float, float]]:
    """(tensors, type, KLD, standard error) of every group that was measured alone at the lowest
    type over the highest.
    """
    if model is None or seen.sizes is None:
        return []
    plan = opened(done.workspace.study, seen)[0]
    groups = plan.probes(model.space, seen.sizes)
    found = []
    for group, proposal in zip(groups, probes_of(plan, model.space, groups), strict=True):
        kld = seen.kld(proposal.recipe, "search")
        if kld:
            found.append((group, plan.types[0], kld.value, kld.stderr or 0.0))
    return sorted(found, key=lambda row: -row[2])
