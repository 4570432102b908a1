"""The baseline that needs no evaluation: importance-weighted squared error under a Lagrangian.

After llama.cpp's pull request 15550 (EAddario): per tensor the squared error of plain quantization,
weighted by the importance matrix and divided by the weights' own norm, times its rows; boosts for
down-projections (6), attention values (1.25), the output (3) and a tied embedding (2.5); then a
price on bytes by bisection and greedy upgrades. The mix is built with the study's own rounding.
Under a limit on quality, which this error can't predict, the size is found by bisection on measured
mixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sintra.config.study import Study
from sintra.core.judge import judge
from sintra.core.metrics import QUALITY
from sintra.core.types import Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.planning.solver.allocate import solve_greedily
from sintra.planning.solver.groups import class_weight
from sintra.planning.solver.mixes import Mix, MixSettings, evaluations_spent
from sintra.planning.solver.problem import Problem
from sintra.planning.state import ModelFacts, PlannerState

CLOSE_SIZES = 1.01  # ratio of sizes at which the bisection ends


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round: at most one mix."""
    settings = MixSettings.of(study, state.model.columns)
    plain = replace(settings, rounding="nearest")
    if not state.results.attempts:
        files = settings.propose_files() + plain.propose_files()
        return list({(p.recipe, p.level): p for p in files}.values())
    model = state.model
    settings, plain = settings.with_built_types(model), plain.with_built_types(model)
    types = tuple(t for t in settings.types if t in plain.types)
    settings = replace(settings, types=types)
    sizes, shape = model.sizes, model.shape
    if sizes is None or shape is None or len(types) < 2:
        return []
    if evaluations_spent(state) >= settings.evaluations:
        return []
    problem = settings.problem(study, sizes, shape, boosted_errors(plain, model, sizes))
    mix = mix_for_limits(study, state, sizes, problem)
    if mix is None:
        return []
    why = "the least importance-weighted error of its size"
    return [Proposal(settings.mix_recipe(mix), why, settings.author)]


def boosted_errors(
    plain: MixSettings, model: ModelFacts, sizes: MixSizes
) -> Mapping[str, Mapping[str, float]]:
    """Return tensor -> type -> importance-weighted error, boosted by class (class_weight)."""
    tied = "output.weight" not in sizes.by_name
    return {
        m.name: {
            t: class_weight(m, tied) * model.distortion[plain.uniform_recipe(t)][m.name]["diagonal"]
            for t in plain.types
        }
        for m in sizes.matrices
    }


def mix_for_limits(
    study: Study, state: PlannerState, sizes: MixSizes, problem: Problem
) -> Mix | None:
    """Return the mix of the limits' size, or None where there is no further one.

    Under a limit on quality the size lies halfway (geometrically) between the smallest measured mix
    that holds the limits and the largest that breaks them.
    """
    table, limit = problem.table, problem.size_limit
    highest = float(table.size.max(1).sum())
    if study.goal.optimise not in QUALITY:
        measured = [c for c in state.results.candidates if c.recipe.complete and not c.failure]
        holding: list[float] = []  # bytes
        breaking: list[float] = []
        for candidate in measured:
            broken = judge(candidate, study.goal).violated
            (breaking if broken else holding).append(candidate.value("size_bytes") or 0.0)
        low = max(breaking, default=float(table.size.min(1).sum()) + sizes.rest)
        high = min(holding, default=highest + sizes.rest)
        if high <= low * CLOSE_SIZES:
            return None
        limit = min(limit, (low * high) ** 0.5 - sizes.rest)
    choice = solve_greedily(table, table.loss, table.size, min(limit, highest))
    return table.mix(choice) if choice else None
