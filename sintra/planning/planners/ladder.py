"""Stock presets from large to small, then importance-matrix variants, compensated rounding, and
last a block dropped.
"""

from __future__ import annotations

from dataclasses import replace

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.judge import judge, ranked
from sintra.core.metrics import QUALITY
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Proposal
from sintra.planning.solver import pruning
from sintra.planning.state import PlannerState, StudyResults

PATIENCE = 2  # presets in a row that may miss a quality limit before smaller ones are given up
ROUNDINGS = ("nearest", "compensated")
AUTHOR = "ladder"


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next rung: at most planner.batch recipes, or none after the last.

    Raises UserError for an unknown planner.rounding.
    """
    options = study.planner
    rounding = options.rounding
    if rounding not in ROUNDINGS:
        raise UserError(
            f"planner.rounding={options.rounding} isn't known: use {' or '.join(ROUNDINGS)}"
        )
    return (
        propose_presets(study, state.results)
        or propose_importance(study, state.results)
        or (propose_compensated(study, state.results) if rounding == "compensated" else [])
        or propose_drops(study, state)
    )


def propose_presets(study: Study, results: StudyResults) -> list[Proposal]:
    """Propose the next stock presets, from large to small, while smaller ones can help."""
    built = {c.recipe for c in results.candidates}
    rest = [t for t in study.planner.types if Recipe(t) not in built]
    if not rest or presets_exhausted(study, plain_presets(study, results)):
        return []
    why = "stock preset, from large to small"
    return [Proposal(Recipe(t), why, AUTHOR) for t in rest[: study.planner.batch]]


def propose_importance(study: Study, results: StudyResults) -> list[Proposal]:
    """Propose the presets near the limit with the importance matrix, once."""
    if any(c.recipe.importance for c in results.candidates):
        return []
    near = boundary_presets(study, plain_presets(study, results), study.planner.batch)
    why = "a preset near the limit, quantized with the importance matrix"
    return [Proposal(Recipe(c.recipe.type, importance=True), why, AUTHOR) for c in near]


def propose_compensated(study: Study, results: StudyResults) -> list[Proposal]:
    """Propose presets beyond the limit with compensated rounding."""
    recipes = compensated_recipes(study, results)
    why = "a preset beyond the limit, its integers chosen by compensated rounding"
    return [Proposal(r, why, AUTHOR) for r in recipes[: study.planner.batch]]


def propose_drops(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the best whole variant without blocks, where no preset holds the limits."""
    base = next(
        (c.recipe for c in ranked(state.results.candidates, study.goal) if not c.recipe.cut), None
    )
    if base is None:
        return []
    recipes = [
        replace(base, drop=dropped, no_attention=no_attention)
        for dropped, no_attention in pruning.cuts_to_try(study, state)
    ]
    why = "quantization alone can't hold the limits: without"
    return [Proposal(r, f"{why} {r.cut_words}", AUTHOR) for r in recipes]


def plain_presets(study: Study, results: StudyResults) -> list[Candidate]:
    """Return the measured stock presets, in the order of planner.types."""
    by_recipe = {c.recipe: c for c in results.candidates}
    recipes = [Recipe(t) for t in study.planner.types]
    return [by_recipe[r] for r in recipes if r in by_recipe]


def presets_exhausted(study: Study, presets: list[Candidate]) -> bool:
    """Say whether smaller presets can't help.

    The last ones failed on quality, or size costs quality and one already fits.
    """
    if study.goal.optimise in QUALITY:
        return any(judge(c, study.goal).status in ("pass", "inconclusive") for c in presets)
    last = presets[-PATIENCE:]
    return len(last) == PATIENCE and all(fails_quality(study, c) for c in last)


def fails_quality(study: Study, candidate: Candidate) -> bool:
    """Say whether a quality limit is broken (or the variant could not be built at all)."""
    verdict = judge(candidate, study.goal)
    return verdict.status == "impossible" or any(v[0] in QUALITY for v in verdict.violated)


def boundary_presets(study: Study, presets: list[Candidate], count: int) -> list[Candidate]:
    """Return the presets on which the importance matrix could change the verdict.

    These are the best that hold, and the first that miss a quality limit. With no miss there are
    only smaller-is-better ties left, so the smallest are taken.
    """
    built = [c for c in presets if not c.failure]
    missing = [c for c in built if fails_quality(study, c)]
    holding = [c for c in built if not fails_quality(study, c)]
    return (missing[: count - 1] + holding[-1:])[:count] if missing else holding[-1:]


def compensated_recipes(study: Study, results: StudyResults) -> list[Recipe]:
    """Return what to round with compensation: presets that miss a quality limit to nearest.

    From large to small, until PATIENCE in a row miss it compensated as well; with no miss, the best
    that holds.
    """
    presets = plain_presets(study, results)
    holding = {c.recipe.type for c in presets if not fails_quality(study, c)}
    types = [t for t in study.planner.types if t not in holding]
    best = next((c for c in ranked(presets, study.goal) if c.recipe.type in holding), None)
    if best and (not types or study.goal.optimise in QUALITY):
        types = [best.recipe.type]
    by_recipe = {c.recipe: c for c in results.candidates}
    recipes = [Recipe(t, rounding="compensated") for t in types]
    last = [by_recipe[r] for r in recipes if r in by_recipe][-PATIENCE:]
    if len(last) == PATIENCE and all(fails_quality(study, c) for c in last):
        return []
    return [r for r in recipes if r not in by_recipe]
