"""The ladder and replay, on made-up histories."""

import json

import pytest
from small_studies import TYPES, measured, study

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, variant_slug
from sintra.planning.planners import ladder, replay
from sintra.planning.state import ModelFacts, PlannerState, StudyResults

KLD = {"Q8_0": 0.001, "Q6_K": 0.002, "Q5_K_M": 0.01, "Q4_K_M": 0.03, "Q3_K_M": 0.1, "Q2_K": 0.5}


def state_of(*candidates, layers=None):
    return PlannerState(StudyResults(candidates), ModelFacts(layers))


def climb(given, kld=KLD):
    """All rounds of a study whose measurements are known beforehand."""
    rounds, known = [], []
    while proposed := ladder.propose(given, state_of(*known, layers=8)):
        rounds.append([variant_slug(p.recipe) for p in proposed])
        for p in proposed:
            factor = (
                (0.7 if p.recipe.importance else 1)
                * (0.3 if p.recipe.rounding == "compensated" else 1)
                * (5 if p.recipe.drop else 1)
            )
            size = 100 - 10 * TYPES.index(p.recipe.type) - 5 * len(p.recipe.drop)
            known.append(measured(p.recipe, kld[p.recipe.type] * factor, size))
        assert len(rounds) < 20
    return rounds


def test_down_until_two_fail_then_imatrix():
    assert climb(study()) == [
        ["Q8_0", "Q6_K"],
        ["Q5_K_M", "Q4_K_M"],
        ["Q3_K_M", "Q2_K"],
        ["Q4_K_M-imatrix", "Q5_K_M-imatrix"],
    ]


def test_a_block_is_dropped_only_when_nothing_else_holds():
    rounds = climb(study(size=45))
    assert rounds[-1] == ["Q2_K-drop2", "Q2_K-drop6"] or all("drop" in n for n in rounds[-1])
    assert not any("drop" in n for r in rounds[:-1] for n in r)
    assert not any("drop" in n for r in climb(study(size=45, max_dropped=0)) for n in r)


def test_compensated_rungs_below_the_limit():
    rounds = climb(study(rounding="compensated"))
    assert rounds[-2:] == [
        ["Q4_K_M-imatrix", "Q5_K_M-imatrix"],
        ["Q4_K_M-compensated", "Q3_K_M-compensated"],
    ] or rounds[-1] == ["Q2_K-compensated"]
    assert "Q4_K_M-compensated" in [n for r in rounds for n in r]
    with pytest.raises(UserError, match="use nearest or compensated"):
        climb(study(rounding="best"))


def test_best_quality_stops_when_it_fits():
    assert climb(study("kld_mean", size=85))[0] == ["Q8_0", "Q6_K"]
    assert all("Q2_K" not in n for r in climb(study("kld_mean", size=85)) for n in r)


def test_replay(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipes:\n- " + json.dumps(Recipe("Q4_K_M", True, (3,), (("ffn", "Q6_K"),)).as_json())
    )
    given = study(replay=str(path))
    (one,) = replay.propose(given, state_of())
    assert one.recipe == Recipe("Q4_K_M", True, (3,), (("ffn", "Q6_K"),))
    assert replay.propose(given, state_of(measured(one.recipe, 0, 1))) == []
    path.write_text("nonsense: 1")
    with pytest.raises(UserError, match="holds no recipes"):
        replay.propose(given, state_of())
    with pytest.raises(UserError, match="is not a file"):
        replay.propose(study(replay="gone.yaml"), state_of())


def test_recipes_are_values():
    one = Recipe("Q4_K_M", True, (3,), (("a", "Q6_K"),))
    assert Recipe.of(json.loads(json.dumps(one.as_json()))) == one
    assert len({one, Recipe.of(one.as_json())}) == 1
    other = Recipe("Q4_K_M", True, (3,), (("a", "Q5_K"),))
    assert variant_slug(one) != variant_slug(other)
