"""The end of a search: the winner refined block after block (sintra.stages.refine) and tuned end to
end (sintra.stages.polish), or a smaller mix that so comes under the limit; then the stock preset of
its size, so that nothing is delivered that measured worse.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.planning.belief import Belief
from sintra.planning.solver.guards import propose_stock_presets
from sintra.planning.solver.last_step import NOTABLE_SAVING, file_bytes_of
from sintra.planning.solver.mixes import mix_of
from sintra.planning.solver.problem import is_quality
from sintra.planning.solver.search import Search
from sintra.stages.rounding.effort import learning_steps

# What is left of a mix's KLD after finishing, until it has been measured here: rather too much than
# too little on the bundled models (docs/benchmarks.md: after refining 0.50 to 0.65, 0.29 to 0.38
# where blocks learn too, 0.7 to 0.8 after polishing); on SmolLM2 refining left 0.97 to 0.99.
REFINED, LEARNED, POLISHED = 0.9, 0.5, 0.8
FINISHING_SPREAD = 0.3  # of the logarithm of these
MOST_FINISHED = 0.98  # of the KLD; more is left where finishing isn't worth a smaller mix
FINISHING_WORDS = ("rounded again block after block", "tuned end to end")  # of refine, of polish


def propose_end(search: Search) -> list[Proposal]:
    """Propose the finished winner, then the stock presets that it must beat."""
    return propose_finishing(search) or propose_stock_presets(search)


def propose_finishing(search: Search) -> list[Proposal]:
    """Propose one more candidate to refine or polish, twice at most.

    First a smaller mix, where bytes count and quality is limited; where there is none or it still
    breaks the limit, the best so far. Where finishing failed once (a model too large for this
    machine) it isn't proposed again.
    """
    options, results = search.study.planner, search.state.results
    refine, polish = options.refine and refining_pays(search), options.polish
    if not (refine or polish) or any(c.recipe.finished and c.failure for c in results.candidates):
        return []
    incumbent = search.incumbent()
    done = [recipe for recipe, level in results.attempts if recipe.finished and level == "search"]
    if incumbent is None or incumbent.cut or incumbent.finished or len(done) > 1:
        return []
    factor = refining_factor(search) if refine else 1.0
    factor *= POLISHED if polish else 1.0
    factor = finished_factor(search, done, factor)
    if factor <= MOST_FINISHED and (smaller := propose_smaller_mix(search, incumbent, factor)):
        recipe = replace(smaller.recipe, refine=refine, polish=polish)
        if recipe not in done:
            return [replace(smaller, recipe=recipe)]
    recipe = replace(incumbent, refine=refine, polish=polish)
    if recipe in done:
        return []
    chosen = zip(FINISHING_WORDS, (refine, polish), strict=True)
    words = " and ".join(word for word, on in chosen if on)
    why = f"the best so far, {words}: the same types and bytes"
    return [Proposal(recipe, why, search.settings.author)]


def finished_factor(search: Search, done: list[Recipe], expected: float) -> float:
    """Return what finishing is expected to leave of a mix's KLD, by what it has left here.

    expected: before anything was finished. What a finished mix would have without it is foreseen by
    the model of the loss.
    """
    logs = []
    for recipe in done:
        kld = search.state.results.kld(recipe, "search")
        mix = mix_of(recipe, search.space)
        if kld is not None and mix is not None:
            logs.append(math.log(kld.value / search.surrogate.predict(mix)[0]))
    errors = [search.surrogate.misfit] * len(logs)
    return Belief.of(expected, FINISHING_SPREAD).learn(logs, errors).median


def refining_pays(search: Search) -> bool:
    """Say whether to refine: where blocks learn their rounding, or the steps were asked for.

    Without learning it takes as long as all else and leaves 0.97 to 0.99 of a real model's KLD.
    """
    requested = search.study.probe.refine_steps
    return requested is not None or learning_steps(None, search.shape.parameters) > 0


def refining_factor(search: Search) -> float:
    """Return the part of the KLD that refining leaves: less where blocks learn their rounding."""
    steps = learning_steps(search.study.probe.refine_steps, search.shape.parameters)
    return LEARNED if steps else REFINED


def propose_smaller_mix(search: Search, incumbent: Recipe, factor: float) -> Proposal | None:
    """Propose a mix that breaks the limit on quality by no more than finishing makes good.

    factor: the part of its KLD that finishing leaves. None where the objective is quality, where
    quality isn't limited, and where no mix is notably smaller than the incumbent.
    """
    if is_quality(search.study.goal.optimise) or search.kld_target == float("inf"):
        return None
    mix = search.solve(kv=incumbent.kv, kld_factor=factor)
    incumbent_bytes = file_bytes_of(search, incumbent)
    if mix is None or incumbent_bytes is None:
        return None
    size = search.sizes.total(mix)
    if size > incumbent_bytes * (1 - NOTABLE_SAVING):
        return None
    kld = search.surrogate.predict(mix)[0]
    why = f"{size / 1e6:.2f} MB, {kld:.5f} nats expected, {kld * factor:.5f} once it is finished"
    recipe = replace(search.settings.mix_recipe(mix), kv=incumbent.kv)
    return Proposal(recipe, why, search.settings.author)
