"""Stock presets from large to small, then importance-matrix variants, compensated rounding, and
last a block dropped.
"""

from __future__ import annotations

from dataclasses import replace

from sintra.core.errors import UserError
from sintra.core.judge import judge, ranked
from sintra.core.metrics import QUALITY
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Proposal, Study
from sintra.planning.solver import pruning
from sintra.planning.state import History

PATIENCE = 2
ROUNDINGS = ("nearest", "compensated")


def propose(study: Study, history: History) -> list[Proposal]:
    """The next rung: at most planner.batch recipes, or none when the ladder has nothing more to
    offer.
    """
    options = study.planner_options
    if options.get("rounding", "nearest") not in ROUNDINGS:
        raise UserError(
            f"planner.rounding={options['rounding']} isn't known: use {' or '.join(ROUNDINGS)}"
        )
    types: list[str] = options["types"]
    batch = options["batch"]
    known = {c.recipe: c for c in history.candidates}
    plain = [known[Recipe(t)] for t in types if Recipe(t) in known]
    left = [t for t in types if Recipe(t) not in known]
    if left and not exhausted(study, plain):
        return [
            Proposal(Recipe(t), "stock preset, from large to small", "ladder") for t in left[:batch]
        ]
    if not any(c.recipe.importance for c in history.candidates):
        near = boundary(study, plain, batch)
        if near:
            why = "a preset near the limit, quantized with the importance matrix"
            return [Proposal(Recipe(c.recipe.type, importance=True), why, "ladder") for c in near]
    if options.get("rounding") == "compensated" and (rungs := compensated(study, history, plain)):
        why = "a preset beyond the limit, its integers chosen by compensated rounding"
        return [Proposal(r, why, "ladder") for r in rungs[:batch]]
    return drops(study, history)


def exhausted(study: Study, plain: list[Candidate]) -> bool:
    """Whether smaller presets can't help: the last ones failed on quality, or size costs quality
    and one already fits.
    """
    if study.goal.optimise in QUALITY:
        return any(judge(c, study.goal).status in ("met", "undecided") for c in plain)
    last = plain[-PATIENCE:]
    return len(last) == PATIENCE and all(fails_quality(study, c) for c in last)


def fails_quality(study: Study, candidate: Candidate) -> bool:
    """Whether a quality limit is broken (or the variant could not be built at all)."""
    verdict = judge(candidate, study.goal)
    return verdict.status == "infeasible" or any(v[0] in QUALITY for v in verdict.violated)


def boundary(study: Study, plain: list[Candidate], count: int) -> list[Candidate]:
    """The presets on which the importance matrix could change the verdict: the best that hold, and
    the first that miss a quality limit. With no miss there are only smaller-is-better ties left, so
    the smallest are taken.
    """
    built = [c for c in plain if not c.failure]
    missed = [c for c in built if fails_quality(study, c)]
    held = [c for c in built if not fails_quality(study, c)]
    return (missed[: count - 1] + held[-1:])[:count] if missed else held[-1:]


def compensated(study: Study, history: History, plain: list[Candidate]) -> list[Recipe]:
    """Presets that miss a quality limit when rounded to nearest, and those below them, from large
    to small, until two in a row miss it compensated as well; with no miss, the best that holds.
    """
    held = {c.recipe.type for c in plain if not fails_quality(study, c)}
    types = [t for t in study.planner_options["types"] if t not in held]
    best = next((c for c in ranked(plain, study.goal) if c.recipe.type in held), None)
    if best and (not types or study.goal.optimise in QUALITY):
        types = [best.recipe.type]
    known = {c.recipe: c for c in history.candidates}
    recipes = [Recipe(t, rounding="compensated") for t in types]
    tried = [known[r] for r in recipes if r in known][-PATIENCE:]
    if len(tried) == PATIENCE and all(fails_quality(study, c) for c in tried):
        return []
    return [r for r in recipes if r not in known]


def drops(study: Study, history: History) -> list[Proposal]:
    """Without blocks, where no preset holds the limits."""
    base = next(
        (c.recipe for c in ranked(history.candidates, study.goal) if not c.recipe.cut), None
    )
    if base is None:
        return []
    why = "quantization alone can't hold the limits: without"
    recipes = [
        replace(base, drop=drop, no_attention=silent)
        for drop, silent in pruning.cuts(study, history)
    ]
    return [Proposal(r, f"{why} {r.cut_words}", "ladder") for r in recipes]
