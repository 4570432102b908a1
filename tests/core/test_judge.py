"""Verdicts and ranking, from numbers alone."""

import pytest

from sintra.core.artifact import Failure
from sintra.core.judge import impossible_limit, judge, ranked, settled
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Constraint, Goal, Measurement
from sintra.results.result import confidence

GOAL = Goal(
    "g",
    (
        Constraint("kld_mean", "<=", 0.02, "goal.max_kld"),
        Constraint("device_tg_tps", ">=", 5, "goal.min_tg_tps"),
    ),
    "size_bytes",
    1,
)


def made(name, kld, size, tps=10.0, error=0.001, decided=True):
    rows = (
        Measurement("kld_mean", kld, "nats", "measured", error),
        Measurement("size_bytes", size, "bytes", "exact"),
        Measurement("device_tg_tps", tps, "tokens/s", "estimated", low=tps * 0.8, high=tps * 1.2),
    )
    return Candidate(Recipe(name), "", "", rows, decided=decided)


def test_pass_fail_inconclusive():
    assert judge(made("a", 0.01, 1), GOAL).status == "pass"
    found = judge(made("a", 0.05, 1, tps=1), GOAL)
    assert found.status == "fail"
    assert [v[0] for v in found.violated] == ["kld_mean", "device_tg_tps"], (
        "the worst, relative to its limit, first"
    )
    assert found.violated[0][3] == pytest.approx(0.03)
    assert judge(made("a", 0.01, 1, decided=False), GOAL).status == "inconclusive"


def test_search_text_gives_the_benefit_of_the_doubt():
    assert judge(made("a", 0.0215, 1, decided=False), GOAL).status == "inconclusive"
    assert judge(made("a", 0.0225, 1, decided=False), GOAL).status == "fail"
    assert judge(made("a", 0.0201, 1, decided=True), GOAL).status == "fail"


def test_an_unknown_metric_is_never_taken_as_held():
    bare = Candidate(
        Recipe("a"), "", "", (Measurement("size_bytes", 1, "bytes", "exact"),), decided=True
    )
    assert judge(bare, GOAL).unknown == ("kld_mean", "device_tg_tps")
    assert judge(bare, GOAL).status == "inconclusive"
    assert confidence(bare, GOAL) == 0.0


def test_order():
    broken = Candidate(Recipe("x"), "", "", failure=Failure("out_of_memory", "no"))
    rows = [
        made("big", 0.001, 9),
        made("small", 0.01, 3),
        made("smaller", 0.03, 2),
        made("tiny", 0.9, 1),
        made("twin", 0.005, 3),
        broken,
    ]
    assert [c.recipe.type for c in ranked(rows, GOAL)] == [
        "twin",
        "small",
        "big",
        "smaller",
        "tiny",
    ]
    assert judge(broken, GOAL).status == "impossible"


def test_what_is_proven_is_delivered_before_what_might_hold():
    """A smaller one that wasn't worth a measurement doesn't make the end undecided."""
    rows = [
        made("doubtful", 0.0205, 1, decided=False),
        made("likely", 0.01, 2, decided=False),
        made("proven", 0.01, 3),
        made("broken", 0.03, 1),
    ]
    assert [c.recipe.type for c in ranked(rows, GOAL)][:3] == ["doubtful", "likely", "proven"]
    order = [c.recipe.type for c in settled(rows, GOAL)]
    assert order == ["proven", "likely", "doubtful", "broken"]


def test_confidence_is_a_probability():
    assert confidence(made("a", 0.02, 1), GOAL) == 0.5
    assert confidence(made("a", 0.019, 1), GOAL) == pytest.approx(0.8413, abs=1e-3)
    assert confidence(made("a", 0.001, 1), GOAL) > 0.999


def test_impossible_names_the_limit():
    assert impossible_limit(GOAL, {"device_tg_tps": 4.0})[0].option == "goal.min_tg_tps"
    assert impossible_limit(GOAL, {"device_tg_tps": 6.0}) is None
