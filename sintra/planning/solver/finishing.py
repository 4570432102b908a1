"""The end of a search: the winner rounded anew block after block (sintra.stages.refine) and tuned
end to end (sintra.stages.polish), or a smaller mix that so comes under the limit.
"""

from __future__ import annotations

from dataclasses import replace

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal, Study
from sintra.planning.solver.mixes import Plan
from sintra.planning.solver.problem import of_quality
from sintra.planning.solver.search import NOTABLE, incumbent, solved, target
from sintra.planning.solver.surrogate import Surrogate
from sintra.planning.state import History
from sintra.stages.rounding.effort import SMALL_MODEL, learning_steps

# What is left of a mix's KLD after finishing, until it has been seen here: rather too much than too
# little (docs/benchmarks.md: 0.50 to 0.65 after refining, 0.29 to 0.38 where blocks learn too, 0.7
# to 0.8 after polishing).
REFINED, LEARNED, POLISHED = 0.7, 0.5, 0.8


def finishing(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """One more candidate, twice at most: first a smaller mix, where bytes count and quality is
    limited; where there is none or it breaks the limit still, the best so far.

    Where it failed once (a model too large for this machine) it isn't asked for again.
    """
    options = study.planner_options
    refine, polish = bool(options["refine"]), bool(options["polish"])
    if not (refine or polish) or any(c.recipe.finished and c.failure for c in history.candidates):
        return []
    lead = incumbent(study, history)
    done = [recipe for recipe, level in history.tried if recipe.finished and level == "search"]
    if lead is None or lead.cut or lead.finished or len(done) > 1:
        return []
    left = (refined(study, history) if refine else 1.0) * (POLISHED if polish else 1.0)
    if not done and (smaller := reachable(study, plan, history, model, lead, left)):
        return [replace(smaller, recipe=replace(smaller.recipe, refine=refine, polish=polish))]
    told = " and ".join(t for t, on in zip(TOLD, (refine, polish), strict=True) if on)
    recipe = replace(lead, refine=refine, polish=polish)
    return [Proposal(recipe, f"the best so far, {told}: the same types and bytes", plan.author)]


def refined(study: Study, history: History) -> float:
    """What refining leaves: less where blocks learn their rounding."""
    parameters = history.shape.parameters if history.shape else SMALL_MODEL + 1
    return LEARNED if learning_steps(study.probe["refine_steps"], parameters) else REFINED


TOLD = ("rounded anew block after block", "tuned end to end")


def reachable(
    study: Study, plan: Plan, history: History, model: Surrogate, lead: Recipe, left: float
) -> Proposal | None:
    """A mix that breaks the limit on quality by no more than what finishing makes good."""
    if of_quality(study.goal.optimise) or target(study, history) == float("inf"):
        return None
    mix = solved(study, plan, history, model, kv=lead.kv, left=left)
    size = history.bytes_of.get(lead) or next(
        (c.value("size_bytes") for c in history.candidates if c.recipe == lead), None
    )
    if (
        mix is None
        or history.sizes is None
        or size is None
        or history.sizes.total(mix) > size * (1 - NOTABLE)
    ):
        return None
    value = model.predict(mix)[0]
    why = (
        f"{history.sizes.total(mix) / 1e6:.2f} MB, {value:.5f} nats expected, {value * left:.5f} "
        "once it is finished"
    )
    return Proposal(replace(plan.mixed(mix), kv=lead.kv), why, plan.author)
