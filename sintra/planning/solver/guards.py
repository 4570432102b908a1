"""The stock presets that a result must beat: the best that fits, by the study's own model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sintra.config.study import Study
from sintra.core.judge import ranked
from sintra.core.metrics import QUALITY
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Proposal
from sintra.formats.gguf.sizes import NEAREST_ERROR, Matrix, written_type
from sintra.planning.solver.search import Search


def propose_stock_presets(search: Search) -> list[Proposal]:
    """Propose the stock preset that should lose least in at most the best's bytes.

    Bytes are those of this model, by the quantizer's dry run. It is measured with and without
    importance matrix, and stays in the table as a reference.
    """
    results, author = search.state.results, search.settings.author
    order = (*search.holding(), *ranked(results.candidates, search.study.goal))
    best = next(iter(order), None)
    if best is None or not best.recipe.complete:
        return []
    max_bytes, presets = preset_bytes(search.study, best), whole_presets(search)
    fitting = [name for name, mix in presets.items() if search.sizes.total(mix) <= max_bytes]
    if not fitting:
        return []
    chosen = min(fitting, key=lambda name: expected_loss(search, presets[name]))
    size = search.sizes.total(presets[chosen]) / 1e6
    why = f"the best stock preset that fits ({size:.2f} MB), to compare with"
    return [Proposal(Recipe(chosen, importance=matrix), why, author) for matrix in (False, True)]


def whole_presets(search: Search) -> dict[str, Mapping[str, str]]:
    """Return the stock presets whose matrices all have a type of known size, by name."""
    return {
        name: mix
        for name, mix in search.state.model.presets.items()
        if all(mix.get(m.name) in NEAREST_ERROR for m in search.sizes.matrices)
    }


def expected_loss(search: Search, mix: Mapping[str, str]) -> float:
    """Return the quantization loss of a preset's types, up to a factor common to all presets.

    Each matrix counts as the study has found it to matter. Types that the study doesn't search, as
    those that rows fall back to, do as much more or less than the next searched one as they do to
    normally distributed weights.
    """
    weights = search.surrogate.weights()
    return sum(matrix_loss(m, mix[m.name], weights[m.name]) for m in search.sizes.matrices)


def matrix_loss(matrix: Matrix, kind: str, weights: Mapping[str, float]) -> float:
    """Return one matrix's share of the loss in a type; weights: by searched type."""
    error = NEAREST_ERROR[kind]
    if not error:
        return 0.0
    searched = {
        t: NEAREST_ERROR[written]
        for t in weights
        if NEAREST_ERROR.get(written := written_type(t, matrix.columns))
    }
    nearest = min(searched, key=lambda t: abs(math.log(searched[t] / error)), default=None)
    if nearest is None:  # of types of which nothing is known: all matrices alike
        return matrix.count * error
    return weights[nearest] * error / searched[nearest]


def preset_bytes(study: Study, best: Candidate) -> float:
    """Return the bytes that a preset may have to compete with the best candidate.

    That is, the best's bytes, or the limit on bytes where only quality counts below it.
    """
    limits = [c.limit for c in study.goal.constraints if c.metric == "size_bytes"]
    size = best.value("size_bytes") or 0.0
    return max(size, *limits) if limits and study.goal.optimise in QUALITY else size
