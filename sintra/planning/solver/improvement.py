"""What might be better than everything measured so far: the best mix of the model, smaller KV
caches, cuts, and mixes that are best by other parameters which the measurements allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sintra.core.judge import ranked
from sintra.core.metrics import QUALITY
from sintra.core.recipe import Recipe
from sintra.core.types import SCREEN, Proposal
from sintra.planning.solver import pruning
from sintra.planning.solver.last_step import (
    PRESET_EVALUATIONS,
    file_bytes_of,
    least_paired_error,
    promises_improvement,
    propose_beyond_budget,
)
from sintra.planning.solver.mixes import Mix, cut_mix, evaluations_spent, mix_of
from sintra.planning.solver.search import Search

if TYPE_CHECKING:
    from sintra.planning.solver.surrogate import Array

RIVAL_SAVING = 0.01  # part of the bytes that is worth a comparison with the best so far
SCREENED_MIXES = 3  # mixes that are compared on a part of the text


def propose_improvement(search: Search) -> list[Proposal]:
    """Propose the best mix by the model; when that is known or promises too little, others."""
    state, settings = search.state, search.settings
    evaluations_left = settings.evaluations - evaluations_spent(state) - PRESET_EVALUATIONS
    if evaluations_left < 1:
        return propose_beyond_budget(search)
    if any(p.level == "screen" for p in state.results.last_round):
        return propose_screened(search)
    best = search.solve()
    if (
        best
        and (settings.mix_recipe(best), "search") not in state.results.attempts
        and promises_improvement(search, best)
    ):
        return [search.propose(best, "the best mix by the model of the quantization loss")]
    if others := propose_kv_caches(search, best) or propose_cuts(search):
        return others
    return (
        propose_screening(search) if evaluations_left >= 1 + (SCREENED_MIXES + 1) / SCREEN else []
    )


def propose_kv_caches(search: Search, best: Mix | None) -> list[Proposal]:
    """Propose smaller KV caches, where the device's memory is what keeps the best mix small.

    Their savings go into the weights. What such a cache does to the quality is not predicted but
    measured.
    """
    proposals = []
    for kv in search.study.planner.kv:
        mix = search.solve(kv=kv) if kv != "f16" else None
        if mix is None or mix == best:
            continue
        kld = search.surrogate.predict(mix)[0]
        recipe = replace(search.settings.mix_recipe(mix), kv=kv)
        why = f"memory binds: a {kv} KV cache leaves room for {kld:.5f} nats by the weights alone"
        proposals.append(Proposal(recipe, why, search.settings.author))
    return [p for p in proposals if (p.recipe, p.level) not in search.state.results.attempts]


def propose_cuts(search: Search) -> list[Proposal]:
    """Propose the best mix so far without some blocks, where quantization can't hold the limits."""
    order = ranked(search.state.results.candidates, search.study.goal)
    whole = next(
        (mix for c in order if not c.recipe.cut and (mix := mix_of(c.recipe, search.space))), None
    )
    if whole is None:
        return []
    proposals = []
    for dropped, no_attention in pruning.cuts_to_try(search.study, search.state):
        recipe = replace(
            search.settings.mix_recipe(cut_mix(whole, dropped, no_attention)),
            drop=dropped,
            no_attention=no_attention,
        )
        why = f"quantization alone can't hold the limits: without {recipe.cut_words}"
        proposals.append(Proposal(recipe, why, search.settings.author))
    return proposals


def sample_mixes(search: Search) -> Iterator[Mix]:
    """Yield untried mixes, each the best by parameters drawn from the model's posterior."""
    return (mix for _, mix in sample_worlds(search))


def sample_worlds(search: Search) -> Iterator[tuple[Array, Mix]]:
    """Yield parameters drawn from the model's posterior, with the mix that is best by them, where
    it is untried.

    This is Thompson sampling; the draws are deterministic.
    """
    import numpy as np  # not on the no-op path

    attempts = search.state.results.attempts
    rng = np.random.default_rng([search.study.planner.seed, len(attempts)])
    for _ in range(3 * SCREENED_MIXES):
        theta = search.surrogate.sample(rng)
        mix = search.solve(theta)
        if mix and not {
            (search.settings.mix_recipe(mix), level) for level in ("screen", "search")
        } & set(attempts):
            yield theta, mix


def pays_by_draw(search: Search, incumbent: Recipe, theta: Array, mix: Mix) -> bool:
    """Say whether a mix promises enough over the best so far, were the drawn parameters true.

    That is RIVAL_SAVING of the bytes, or of the KLD more than the noise of a comparison.
    """
    goal, size = search.study.goal.optimise, file_bytes_of(search, incumbent)
    if goal == "size_bytes":
        return size is None or search.sizes.total(mix) < size * (1 - RIVAL_SAVING)
    best = mix_of(incumbent, search.space)
    if goal not in QUALITY or best is None:
        return True
    drawn = replace(search.surrogate, theta=theta)
    gain = drawn.predict(best)[0] - drawn.predict(mix)[0]
    return gain > least_paired_error(search, incumbent)


def propose_screening(search: Search) -> list[Proposal]:
    """Propose to compare sampled mixes with the best so far on a part of the text.

    Only those that promise enough.
    """
    incumbent = search.incumbent()
    if incumbent is None:
        return []
    samples: dict[Recipe, Proposal] = {}
    for theta, mix in sample_worlds(search):
        if not pays_by_draw(search, incumbent, theta, mix):
            continue
        samples[search.settings.mix_recipe(mix)] = search.propose(
            mix, "the best mix by a draw from the model's uncertainty", "screen"
        )
        if len(samples) == SCREENED_MIXES:
            break
    author = search.settings.author
    again = Proposal(incumbent, "the best so far, to compare with", author, "screen")
    return [again, *samples.values()] if samples else []


def propose_screened(search: Search) -> list[Proposal]:
    """Propose to measure the mix of the last screening that looks best on all of the text.

    Only where it looks better than the best so far.
    """
    results, incumbent = search.state.results, search.incumbent()
    whole = results.kld(incumbent, "search") if incumbent else None
    part = results.kld(incumbent, "screen") if incumbent else None
    if whole is None or part is None:
        return []
    leading: list[tuple[float, Mix]] = []  # what is to be least, and the mix
    for recipe in (p.recipe for p in results.last_round if p.recipe != incumbent):
        kld, mix = results.kld(recipe, "screen"), mix_of(recipe, search.space)
        if kld is None or mix is None:
            continue
        expected = kld.value * whole.value / part.value
        if search.study.goal.optimise in QUALITY:
            leading += [(expected, mix)] if expected < whole.value else []
        elif expected <= search.kld_target:
            leading.append((float(search.sizes.total(mix)), mix))
    if not leading:
        return []
    best = min(leading, key=lambda pair: pair[0])[1]
    return [search.propose(best, "a mix that led on a part of the text")]
