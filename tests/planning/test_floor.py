"""A limit below what the best type reaches is said behind the first round."""

from dataclasses import replace

from small_studies import measured, study

from sintra.core.recipe import Recipe
from sintra.core.types import Constraint, Goal
from sintra.planning.floor import floor_reason

CURVE = [measured(Recipe(t), kld, 100) for t, kld in (("Q2_K", 0.5), ("Q8_0", 0.004))]


def asked(limit, name="solver"):
    goal = Goal("g", (Constraint("kld_mean", "<=", limit, "goal.max_kld"),), "size_bytes", 1)
    return replace(study(name=name), goal=goal)


def test_a_limit_below_the_best_type_is_impossible():
    line = floor_reason(asked(0.002), CURVE, 2)
    assert line.startswith(
        "impossible: goal.max_kld asks for kld_mean <= 0.002 nats, and llama.cpp Q8_0"
    )
    assert "is at 0.004 on the search text" in line


def test_what_finishing_may_still_reach_is_tried():
    assert floor_reason(asked(0.0033), CURVE, 2) is None
    assert floor_reason(asked(0.02), CURVE, 2) is None


def test_it_is_asked_once_and_of_planners_that_begin_with_the_curve():
    assert floor_reason(asked(0.002), CURVE, 1) is None
    assert floor_reason(asked(0.002), CURVE, 3) is None
    assert floor_reason(asked(0.002, "ladder"), CURVE, 2) is None
    assert floor_reason(asked(0.002), [], 2) is None
    assert floor_reason(study(optimise="kld_mean", name="solver"), CURVE, 2) is None
