"""The baseline that needs no evaluation: importance-weighted squared error under a Lagrangian.

After llama.cpp's pull request 15550 (EAddario): per tensor the squared error of plain quantization,
weighted by the importance matrix and divided by the weights' own norm, times its rows; boosts for
down-projections (6), attention values (1.25), the output (3) and a tied embedding (2.5); then a
price on bytes by bisection and greedy upgrades. The mix is built with the study's own rounding.
Under a limit on quality, which it can't foresee, the size is found by bisection on measured mixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sintra.config.study import Study
from sintra.core.judge import judge
from sintra.core.types import Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.planning.solver.allocate import greedy
from sintra.planning.solver.groups import weight
from sintra.planning.solver.mixes import Mix, Plan, spent
from sintra.planning.solver.problem import QUALITY, Problem
from sintra.planning.state import History

CLOSE = 1.01


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""
    plan = Plan.of(study)
    plain = replace(plan, rounding="nearest")
    if not history.tried:
        return list({(p.recipe, p.level): p for p in plan.files() + plain.files()}.values())
    plan, plain = plan.made(history), plain.made(history)
    types = tuple(t for t in plan.types if t in plain.types)
    plan = replace(plan, types=types)
    if history.sizes is None or len(types) < 2 or spent(history) >= plan.evaluations:
        return []
    problem = plan.problem(study, history, errors(plain, history, history.sizes))
    mix = mix_for(study, history, problem)
    return (
        [Proposal(plan.mixed(mix), "the least importance-weighted error of its size", plan.author)]
        if mix
        else []
    )


def errors(plain: Plan, history: History, sizes: MixSizes) -> Mapping[str, Mapping[str, float]]:
    """tensor -> type -> boosted error."""
    tied = "output.weight" not in sizes.by_name
    return {
        m.name: {
            t: weight(m, tied) * history.distortion[plain.uniform(t)][m.name]["diagonal"]
            for t in plain.types
        }
        for m in sizes.matrices
    }


def mix_for(study: Study, history: History, problem: Problem) -> Mix | None:
    """The mix of the limits' size, or of the size halfway between what holds the limits on quality
    and what breaks them.
    """
    table = problem.table
    limit = problem.size_limit
    if study.goal.optimise not in QUALITY:
        assert history.sizes is not None
        rest = history.sizes.rest
        measured = [c for c in history.candidates if c.recipe.complete and not c.failure]
        held = [c.value("size_bytes") or 0.0 for c in measured if not judge(c, study.goal).violated]
        broken = [c.value("size_bytes") or 0.0 for c in measured if judge(c, study.goal).violated]
        low, high = (
            max(broken, default=float(table.size.min(1).sum()) + rest),
            min(held, default=float(table.size.max(1).sum()) + rest),
        )
        if high <= low * CLOSE:
            return None
        limit = min(limit, (low * high) ** 0.5 - rest)
    chosen = greedy(table, table.damage, table.size, min(limit, float(table.size.max(1).sum())))
    return table.mix(chosen) if chosen else None
