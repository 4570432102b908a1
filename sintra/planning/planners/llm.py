"""A language model's advice, realised by the solver: `llm` asks before the probes, `hybrid` after
the solver has done its own.

The model's edits narrow or widen what the solver may choose from; the solver solves under them,
prices and foresees the mix. What can't be parsed, leaves no mix, or was tried already is refused,
with the reason told once. At most TRIALS mixes are measured for it, beside the solver's own
evaluations, which all still happen: advice can add a candidate, never take one away. Whatever goes
wrong with the endpoint, the study goes on with the solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sintra.config.study import Study
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.planning.llm import prompt
from sintra.planning.llm.edits import Edit, Scope, applied, parse, schema, switches
from sintra.planning.solver.finishing import finishing
from sintra.planning.solver.mixes import Mix, Plan, mix_of, without
from sintra.planning.solver.problem import Problem
from sintra.planning.solver.search import (
    drawn,
    foreseen,
    guards,
    improving,
    opened,
    proposal,
    solved,
)
from sintra.planning.solver.surrogate import Surrogate
from sintra.planning.state import ADVISER, EXPLORER, History

TRIALS, ATTEMPTS = 2, 2
BESIDE = (
    "kv",
    "importance",
    "drop",
    "no_attention",
)  # what makes two recipes differ beside the mix
AGAIN = (
    "these edits lead to a variant that was measured already",
    "these edits lead to a variant within noise of one that was measured already",
)


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""
    plan, model, first = opened(study, history)
    if not history.tried or model is None:
        return first
    if study.planner.name == "llm":
        return advised(study, plan, history, model) or first or own(study, plan, history, model)
    better = first or improving(study, plan, history, model)
    better = (
        better or advised(study, plan, history, model) or finishing(study, plan, history, model)
    )
    return better or guards(study, plan, history)


def own(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """The solver's next word."""
    better = improving(study, plan, history, model) or finishing(study, plan, history, model)
    return better or guards(study, plan, history)


def advised(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """One mix by the model's advice, or none: after TRIALS mixes, without an endpoint, on trouble,
    on repetition.
    """
    if (
        history.ask is None
        or history.sizes is None
        or history.advice >= TRIALS
        or not history.layers
    ):
        return []
    scope = Scope(history.sizes.matrices, plan.types, history.layers)
    refused: list[str] = []
    looped = False
    for _ in range(ATTEMPTS):
        text = prompt.user(study, history, model, TRIALS - history.advice, refused)
        reply = history.ask(prompt.system(), text, schema(scope))
        if reply is None:
            return []
        edits, refused, stop = parse(reply, scope)
        if stop and not edits:
            history.say(f"the language model has nothing to add: {prompt.plain(stop)}")
            history.hush()
            return []
        made = realised(study, plan, history, model, edits, refused)
        if isinstance(made, Proposal):
            return [made]
        refused, looped = [*refused, *([made] if made else [])], looped or made in AGAIN
    history.hush()
    history.say(
        "the language model's advice could not be used: "
        + "; ".join(refused or ["it gave no edits"])[:300]
    )
    return explored(study, plan, history, model) if looped else []


def realised(
    study: Study,
    plan: Plan,
    history: History,
    model: Surrogate,
    edits: Sequence[Edit],
    trouble: list[str],
) -> Proposal | str:
    """The best mix under the edits as a proposal, or why there is none; edits that had to be left
    out are added to the trouble.
    """
    if not edits:
        return ""
    assert history.sizes is not None
    matrices = history.sizes.matrices
    kv, matrix, drop = switches(edits)

    def narrowed(problem: Problem) -> Problem:
        changed, bad = applied(edits, problem, matrices)
        trouble.extend(bad)
        return changed

    mix = solved(study, plan, history, model, kv=kv, narrowed=narrowed)
    if mix is None:
        return "no mix holds the limits under these edits"
    recipe = recipe_of(replace(plan, importance=matrix), mix, kv, drop)
    if known := repeats(history, model, recipe, mix):
        return known
    sure = sum(e.confidence for e in edits) / len(edits)
    told = "; ".join(
        f"{e.action} {e.tensors} {e.first}-{e.last} {e.value}: {prompt.plain(e.reason)}"
        for e in edits
    )
    predicted, text = foreseen(history, model, mix)
    return Proposal(recipe, f"{told} ({sure:.0%} sure); {text}", ADVISER, "search", predicted, sure)


def explored(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """In the stead of a model that goes round in circles: a mix that is best in a world drawn from
    what is not yet known.
    """
    for mix in drawn(study, plan, history, model):
        why = "the language model goes round in circles: a mix that nobody has tried"
        return [replace(proposal(plan, history, model, mix, why), author=EXPLORER)]
    return []


def recipe_of(plan: Plan, mix: Mix, kv: str, drop: tuple[int, ...]) -> Recipe:
    """With the switches."""
    return replace(plan.mixed(without(mix, drop)), kv=kv, drop=drop)


def repeats(history: History, model: Surrogate, recipe: Recipe, mix: Mix) -> str:
    """Why a recipe is nothing new: the same digest, or foreseen within noise of a measured one that
    differs in few tensors.
    """
    if any(recipe == other for other, level in history.tried if level == "search"):
        return AGAIN[0]
    for seen in (s for s in history.seen if s.level == "search"):
        other = mix_of(seen.recipe, model.space)
        if other is None or any(getattr(seen.recipe, k) != getattr(recipe, k) for k in BESIDE):
            continue
        differ = sum(mix[n] != other[n] for n in mix)
        kld = seen.metrics["kld_mean"]
        if differ <= 0.03 * len(mix) and abs(model.predict(mix)[0] - model.predict(other)[0]) < (
            kld.stderr or 0.0
        ):
            return AGAIN[1]
    return ""
