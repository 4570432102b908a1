"""What is left to try where rounds or evaluations are used up.

No study ends with a variant that was made to be measured (a probe, a uniform file, a stock preset)
while the model of the quantization loss foresees a clearly smaller mix within the limits.
"""

from __future__ import annotations

import math

from sintra.config.study import Study
from sintra.core.metrics import QUALITY
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.planning.solver.groups import depth_bins, group_tensors
from sintra.planning.solver.mixes import (
    CLOSING_EVALUATIONS,
    CURVE_EVALUATIONS,
    Mix,
    evaluations_spent,
)
from sintra.planning.solver.search import Search, open_search
from sintra.planning.state import PlannerState

NOTABLE_SAVING = 0.003  # part of the bytes that is worth a measurement
CLEAR_SAVING = 0.02  # part of the bytes that is worth one beyond what the user allows
CLEAR_GAIN = 0.05  # part of the KLD that is worth saying where quality is the goal
MOST_EXTRA = 4  # evaluations beyond the budget
PRESET_EVALUATIONS = 2  # kept free for the stock presets at the end
MORE_EVALUATIONS = 5  # by which a larger budget is suggested


def propose_beyond_budget(search: Search) -> list[Proposal]:
    """Propose one more mix though the evaluations are spent, where the end would else be worse than
    what is known.

    Each finalist that the report text has refuted pays for two: it has moved the target. All of
    MOST_EXTRA are allowed while nothing that was chosen by prediction holds the limits.
    """
    refuted = search.state.results.refuted(search.study.goal)
    if evaluations_beyond(search) < min(2 * len(refuted), MOST_EXTRA):
        best = untried_best(search)
        if best is not None and promises_improvement(search, best):
            return [search.propose(best, "the best mix by what the report text has shown")]
    return propose_last_step(search)


def propose_last_step(search: Search) -> list[Proposal]:
    """Propose the mix that the model foresees, where it is clearly smaller than what would win.

    Only where what would win was not chosen by prediction, or where the report text has refuted
    something.
    """
    winner = next(iter(search.holding()), None)
    refuted = search.state.results.refuted(search.study.goal)
    if evaluations_beyond(search) >= MOST_EXTRA:
        return []
    if winner is not None and not was_made_to_measure(winner) and not refuted:
        return []
    mix = clearly_smaller_mix(search)
    if mix is None:
        return []
    return [search.propose(mix, "clearly smaller than what holds the limits so far")]


def was_made_to_measure(candidate: Candidate) -> bool:
    """Say whether a variant was made to learn from, or to compare with, and not to win."""
    recipe = candidate.recipe
    chosen = candidate.predicted or recipe.finished or recipe.cut or recipe.kv != "f16"
    return not chosen


def clearly_smaller_mix(search: Search) -> Mix | None:
    """Return an untried mix that is foreseen to hold the limits in clearly fewer bytes than the
    best so far; None where there is none, and where bytes aren't the goal.
    """
    if search.study.goal.optimise != "size_bytes":
        return None
    mix = untried_best(search)
    if mix is None or search.surrogate.predict(mix)[0] > search.kld_target * (1 + CLEAR_GAIN):
        return None
    best_bytes = min(
        (c.value("size_bytes") or math.inf for c in search.holding()), default=math.inf
    )
    return mix if search.sizes.total(mix) < best_bytes * (1 - CLEAR_SAVING) else None


def untried_best(search: Search) -> Mix | None:
    """Return the best mix by the model, unless it has been measured."""
    best = search.solve()
    recipe = search.settings.mix_recipe(best) if best else None
    return None if (recipe, "search") in search.state.results.attempts else best


def evaluations_beyond(search: Search) -> float:
    """Return how many mixes were measured beyond the budget; negative while some of it is left.

    What finishing and stock presets took at the end doesn't count.
    """
    beside = sum(
        level == "search" and (recipe.finished or not recipe.tensors)
        for recipe, level in search.state.results.attempts
    )
    mixes = evaluations_spent(search.state) - beside
    return mixes - (search.settings.evaluations - PRESET_EVALUATIONS)


def is_spent(study: Study, state: PlannerState) -> bool:
    """Say whether no evaluation of the budget is left for a mix."""
    return evaluations_spent(state) + 1 > study.planner.evaluations - PRESET_EVALUATIONS


def step_left(study: Study, state: PlannerState) -> str | None:
    """Say in words what the model foresees and nothing has tried, such as "a mix of about 94 MB
    should hold"; None where there is nothing that clearly pays.
    """
    search, first = open_search(study, state)
    if search is None or first:
        return None
    if study.goal.optimise in QUALITY:
        return quality_left(search)
    mix = clearly_smaller_mix(search)
    return (
        None
        if mix is None
        else f"a mix of about {search.sizes.total(mix) / 1e6:.3g} MB should hold"
    )


def quality_left(search: Search) -> str | None:
    """Return `step_left` where quality is the goal."""
    mix, best = untried_best(search), next(iter(search.holding()), None)
    if mix is None or best is None or not promises_improvement(search, mix):
        return None
    foreseen, kld = search.surrogate.predict(mix)[0], best.value("kld_mean")
    if kld is None or foreseen > kld * (1 - CLEAR_GAIN):
        return None
    return f"a mix of about {foreseen:.2g} nats fits the limits"


def more_evaluations(study: Study, state: PlannerState) -> int:
    """Return a planner.evaluations that is enough for the step left.

    A larger budget may mean more groups, each of which is probed: the least that leaves as many
    more for mixes is taken.
    """
    now, sizes = study.planner.evaluations, state.model.sizes
    if sizes is None:
        return now + MORE_EVALUATIONS
    largest = now + 6 * MORE_EVALUATIONS
    wanted = spare_evaluations(sizes, now) + MORE_EVALUATIONS
    enough = (
        e for e in range(now + MORE_EVALUATIONS, largest) if spare_evaluations(sizes, e) >= wanted
    )
    return next(enough, largest)


def spare_evaluations(sizes: MixSizes, evaluations: int) -> int:
    """Return how many of a budget's evaluations are for neither type curve nor probes."""
    beside = evaluations - CURVE_EVALUATIONS
    bins = depth_bins(sizes.matrices, beside - CLOSING_EVALUATIONS)
    return beside - len(set(group_tensors(sizes.matrices, bins).values()))


def promises_improvement(search: Search, mix: Mix) -> bool:
    """Say whether a mix promises more than noise over the best candidate.

    That is, twice the paired standard error, or NOTABLE_SAVING of the bytes.
    """
    goal, results = search.study.goal, search.state.results
    best = next(iter(search.holding()), None)
    if best is None:
        return True
    if goal.optimise not in QUALITY:
        best_bytes = best.value("size_bytes") or 0.0
        return search.sizes.total(mix) < best_bytes * (1 - NOTABLE_SAVING)
    kld = results.kld(best.recipe, "search")
    if kld is None:
        return True
    return kld.value - search.surrogate.predict(mix)[0] > 2 * least_paired_error(
        search, best.recipe
    )


def least_paired_error(search: Search, best: Recipe) -> float:
    """Return the standard error of a KLD difference to the best: the smallest to any other mix."""
    results = search.state.results
    errors = [
        difference[1]
        for result in results.text_results
        if result.level == "search"
        and result.recipe != best
        and result.recipe.complete
        and (difference := results.kld_difference(best, result.recipe))
    ]
    return min(errors, default=0.0)


def file_bytes_of(search: Search, recipe: Recipe) -> float | None:
    """Return the bytes of a recipe's file, or None where it was not made."""
    results = search.state.results
    return results.file_bytes.get(recipe) or next(
        (c.value("size_bytes") for c in results.candidates if c.recipe == recipe), None
    )
