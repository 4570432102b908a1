"""The end of a search: the winner tuned end to end (sintra.stages.polish), or a smaller mix that so comes under the limit."""

from __future__ import annotations

from dataclasses import replace

from sintra.allocation.problem import QUALITY
from sintra.allocation.recipes import Plan
from sintra.allocation.search import NOTABLE, incumbent, solved, target
from sintra.allocation.surrogate import Surrogate
from sintra.planning import History
from sintra.types import Proposal, Recipe, Study

# What is left of a mix's KLD after polishing, until it has been seen here: rather too much than too little
# (docs/benchmarks.md).
LEFT = 0.8


def polishing(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """One more candidate, twice at most: first a smaller mix, where bytes count and quality is limited; where there is
    none or it breaks the limit still, the best so far.

    Where it failed once (a model too large for this machine) it isn't asked for again.
    """
    if not study.planner_options["polish"] or any(c.recipe.polish and c.failure for c in history.candidates):
        return []
    lead = incumbent(study, history)
    done = [recipe for recipe, level in history.tried if recipe.polish and level == "search"]
    if lead is None or lead.drop or lead.polish or len(done) > 1:
        return []
    if not done and (smaller := reachable(study, plan, history, model, lead)):
        return [smaller]
    why = "the best so far, tuned end to end: the same types and bytes"
    return [Proposal(replace(lead, polish=True), why, plan.author)]


def reachable(study: Study, plan: Plan, history: History, model: Surrogate, lead: Recipe) -> Proposal | None:
    """A mix that breaks the limit on quality by no more than what polishing makes good."""
    if study.goal.optimise in QUALITY or target(study, history) == float("inf"):
        return None
    mix = solved(study, plan, history, model, kv=lead.kv, left=LEFT)
    size = history.bytes_of.get(lead) or next((c.value("size_bytes") for c in history.candidates if c.recipe == lead), None)
    if mix is None or history.sizes is None or size is None or history.sizes.total(mix) > size * (1 - NOTABLE):
        return None
    value = model.predict(mix)[0]
    why = f"{history.sizes.total(mix) / 1e6:.2f} MB, {value:.5f} nats expected, {value * LEFT:.5f} once tuned end to end"
    return Proposal(replace(plan.mixed(mix), kv=lead.kv, polish=True), why, plan.author)
