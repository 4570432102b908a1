"""A language model's advice, realized by the solver: `llm` asks before the probes, `hybrid` after
the solver has done its own.

The model's edits narrow or widen what the solver may choose from; the solver solves under them and
predicts the mix. What can't be parsed, leaves no mix, or was tried already is refused, and the
model is given the reason once. At most TRIALS mixes are measured for it, beside the solver's own
evaluations, which all still happen: advice can add a candidate, never take one away. Whatever goes
wrong with the endpoint, the study goes on with the solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sintra.config.study import Study
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.planning.llm import prompt
from sintra.planning.llm.edits import Edit, Scope, apply_edits, last_switches, parse_reply, schema
from sintra.planning.solver.finishing import propose_end
from sintra.planning.solver.improvement import propose_improvement, sample_mixes
from sintra.planning.solver.mixes import Mix, cut_mix, mix_of
from sintra.planning.solver.problem import Problem
from sintra.planning.solver.search import Search, open_search
from sintra.planning.state import ADVISER, EXPLORER, AskModel, PlannerState

TRIALS = 2  # mixes that are measured on advice in a study
ATTEMPTS = 2  # questions in a row for one mix
ALIKE = 0.03  # part of the tensors in which two mixes may differ and still count as alike
LINE = 300  # characters of a line for the user
BESIDE_MIX = ("kv", "importance", "drop", "no_attention")  # fields of a recipe beside its types
MEASURED = "these edits lead to a variant that was measured already"
WITHIN_NOISE = "these edits lead to a variant within noise of one that was measured already"


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round."""
    search, first = open_search(study, state)
    if search is None:
        return first
    if study.planner.name == "llm":
        return (
            propose_advised(search) or first or propose_improvement(search) or propose_end(search)
        )
    return first or propose_improvement(search) or propose_advised(search) or propose_end(search)


@dataclass
class Refusals:
    """Why the edits of the last reply could not be used."""

    reasons: list[str]
    repeated: bool = False  # whether any edits so far led to what was measured already


def propose_advised(search: Search) -> list[Proposal]:
    """Propose one mix by the model's advice, or none.

    None after TRIALS mixes, without an endpoint, on trouble, and on repetition.
    """
    adviser, layers = search.state.adviser, search.state.model.layers
    if adviser.ask is None or adviser.evaluations >= TRIALS or not layers:
        return []
    scope = Scope(search.sizes.matrices, search.settings.types, layers)
    refusals = Refusals([])
    for _ in range(ATTEMPTS):
        edits = ask_for_edits(search, adviser.ask, scope, refusals)
        if edits is None:
            return []
        outcome = realize_edits(search, edits, refusals.reasons)
        if isinstance(outcome, Proposal):
            return [outcome]
        refusals.reasons += [outcome] if outcome else []
        refusals.repeated |= outcome in (MEASURED, WITHIN_NOISE)
    adviser.stop_asking()
    reasons = "; ".join(refusals.reasons or ["it gave no edits"])[:LINE]
    adviser.notify(f"the language model's advice could not be used: {reasons}")
    return propose_untried(search) if refusals.repeated else []


def ask_for_edits(
    search: Search, ask: AskModel, scope: Scope, refusals: Refusals
) -> list[Edit] | None:
    """Ask the model once; None on trouble and where it has nothing to add.

    The reasons why edits of the reply mean nothing replace those of the reply before.
    """
    adviser = search.state.adviser
    trials_left = TRIALS - adviser.evaluations
    text = prompt.user_prompt(search, trials_left, refusals.reasons)
    reply = ask(prompt.system_prompt(), text, schema(scope))
    if reply is None:
        return None
    edits, refusals.reasons, stop = parse_reply(reply, scope)
    if stop and not edits:
        adviser.notify(f"the language model has nothing to add: {prompt.plain_text(stop)}")
        adviser.stop_asking()
        return None
    return edits


def realize_edits(search: Search, edits: Sequence[Edit], reasons: list[str]) -> Proposal | str:
    """Return the best mix under the edits as a proposal, or why there is none.

    Why edits had to be left out is added to `reasons`. "" where there are no edits.
    """
    if not edits:
        return ""
    kv, importance, dropped = last_switches(edits)

    def narrow(problem: Problem) -> Problem:
        narrowed, left_out = apply_edits(edits, problem, search.sizes.matrices)
        reasons.extend(left_out)
        return narrowed

    mix = search.solve(kv=kv, narrow=narrow)
    if mix is None:
        return "no mix holds the limits under these edits"
    settings = replace(search.settings, importance=importance)
    recipe = replace(settings.mix_recipe(cut_mix(mix, dropped)), kv=kv, drop=dropped)
    if repetition := repeats(search, recipe, mix):
        return repetition
    confidence = sum(e.confidence for e in edits) / len(edits)
    advice = "; ".join(
        f"{e.action} {e.tensors} {e.first}-{e.last} {e.value}: {prompt.plain_text(e.reason)}"
        for e in edits
    )
    predicted, words = search.predict(mix)
    why = f"{advice} ({confidence:.0%} sure); {words}"
    return Proposal(recipe, why, ADVISER, "search", predicted, confidence)


def propose_untried(search: Search) -> list[Proposal]:
    """Propose a mix drawn from the model's uncertainty, instead of advice that repeats itself."""
    for mix in sample_mixes(search):
        why = "the language model repeats itself: a mix that was not tried yet"
        return [replace(search.propose(mix, why), author=EXPLORER)]
    return []


def repeats(search: Search, recipe: Recipe, mix: Mix) -> str:
    """Say why a recipe is nothing new; "" where it is.

    It was measured itself, or it is predicted within noise of a measured one that differs in few
    tensors.
    """
    results, surrogate = search.state.results, search.surrogate
    if (recipe, "search") in results.attempts:
        return MEASURED
    for result in results.text_results:
        other = mix_of(result.recipe, search.space) if result.level == "search" else None
        if other is None or differ_beside_mix(result.recipe, recipe):
            continue
        different = sum(mix[name] != other[name] for name in mix)
        change = abs(surrogate.predict(mix)[0] - surrogate.predict(other)[0])
        noise = result.metrics["kld_mean"].stderr or 0.0
        if different <= ALIKE * len(mix) and change < noise:
            return WITHIN_NOISE
    return ""


def differ_beside_mix(first: Recipe, second: Recipe) -> bool:
    """Say whether two recipes differ in more than the types of their tensors."""
    return any(getattr(first, name) != getattr(second, name) for name in BESIDE_MIX)
