"""The stock preset that a result must beat is the best one that fits, by what was measured."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from searches import probed_run, study
from worlds import TYPES, World

from sintra.core.recipe import Recipe
from sintra.formats.gguf.sizes import NEAREST_ERROR, Matrix
from sintra.planning.solver.guards import expected_loss, matrix_loss, propose_stock_presets
from sintra.planning.solver.search import open_search


@pytest.fixture(scope="module")
def run():
    world = World(0)
    return probed_run(study(optimise="size_bytes", kld=world.kld(world.uniform("Q3_K"))), world)


@pytest.fixture(scope="module")
def search(run):
    return open_search(run.given, run.state())[0]


def test_presets_are_ranked_by_what_was_measured(run, search):
    """By normally distributed weights alone mixes of the same bits can't be told apart."""
    rng = np.random.default_rng(1)
    mixes = [
        {m.name: TYPES[i] for m, i in zip(run.world.matrices, chosen, strict=True)}
        for chosen in rng.integers(0, len(TYPES), (40, len(run.world.matrices)))
    ]
    true = [run.world.kld(mix) for mix in mixes]
    alike = [sum(m.count * NEAREST_ERROR[mix[m.name]] for m in run.world.matrices) for mix in mixes]
    ranked = spearmanr([expected_loss(search, mix) for mix in mixes], true).statistic
    assert ranked > 0.9
    assert ranked > spearmanr(alike, true).statistic + 0.1


def test_the_guard_protects_what_matters(run, search):
    """Two presets of the same bytes: one spends them where the study has found it to matter."""
    weights = search.surrogate.weights()
    inner = [m.name for m in run.world.matrices if m.block is not None]
    order = sorted(inner, key=lambda name: -weights[name]["Q3_K"])
    base = run.world.uniform("Q4_K")
    half = len(order) // 2
    wise = base | dict.fromkeys(order[:half], "Q4_K") | dict.fromkeys(order[half:], "Q2_K")
    blind = base | dict.fromkeys(order[:half], "Q2_K") | dict.fromkeys(order[half:], "Q4_K")
    run.preset = lambda name: {"Q3_K_M": wise, "Q3_K_L": blind}.get(name, base)
    guarded = open_search(run.given, run.state())[0]
    assert expected_loss(guarded, wise) < expected_loss(guarded, blind)
    found = propose_stock_presets(guarded)
    assert [p.recipe.importance for p in found] in ([], [False, True])
    assert Recipe("Q3_K_L") not in [p.recipe for p in found]


def test_what_rows_fall_back_to_counts_as_what_it_is():
    """Of 576 columns Q4_K is written as Q5_0, which the study has measured under that name."""
    matrix, weights = (
        Matrix("blk.0.ffn_up.weight", 576, 64, "ffn_up", 0),
        {"Q4_K": 2.0, "Q8_0": 0.1},
    )
    assert matrix_loss(matrix, "Q5_0", weights) == 2.0
    ratio = NEAREST_ERROR["Q5_1"] / NEAREST_ERROR["Q5_0"]
    assert matrix_loss(matrix, "Q5_1", weights) == pytest.approx(2.0 * ratio)
    assert matrix_loss(matrix, "F16", weights) == 0
    assert matrix_loss(matrix, "Q4_0", {}) > 0
