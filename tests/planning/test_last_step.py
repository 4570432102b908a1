"""Where rounds or evaluations are used up, no study ends with less than what is known."""

import dataclasses

import pytest
from searches import Run, probed_run, study
from worlds import World

from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Measurement
from sintra.planning.solver.last_step import (
    CLEAR_SAVING,
    MOST_EXTRA,
    is_spent,
    more_evaluations,
    propose_last_step,
    spare_evaluations,
    step_left,
    was_made_to_measure,
)
from sintra.planning.solver.search import open_search
from sintra.planning.state import StudyResults, TextResult
from sintra.study.rounds import may_ask_planner


@pytest.fixture(scope="module")
def probed():
    """A study whose curve and probes are measured, and nothing else."""
    world = World(0)
    return probed_run(study(optimise="size_bytes", kld=world.kld(world.uniform("Q3_K"))), world)


def test_no_probe_wins_while_a_clearly_smaller_mix_is_foreseen(probed):
    search, _ = open_search(probed.given, probed.state())
    best = search.holding()[0]
    assert was_made_to_measure(best)
    (proposal,) = propose_last_step(search)
    size = proposal.predicted["size_bytes"]
    assert size < best.value("size_bytes") * (1 - CLEAR_SAVING)
    assert proposal.predicted["kld_mean"] <= probed.given.goal.constraints[0].limit
    run = Run(probed.given, probed.world)
    run.rounds, run.tried, run.numbers = [*probed.rounds], [*probed.tried], {**probed.numbers}
    for _ in range(MOST_EXTRA):
        search, _ = open_search(run.given, run.state())
        if not (found := propose_last_step(search)):
            break
        run.rounds.append(found)
        run.measure(found[0])
    assert propose_last_step(open_search(run.given, run.state())[0]) == []
    assert not was_made_to_measure(search.holding()[0])


def test_what_was_chosen_may_win():
    def made(**recipe):
        return was_made_to_measure(Candidate(Recipe("Q4_K_M", **recipe), "", ""))

    assert made()
    assert made(tensors=((".*", "Q4_K"),))
    assert not made(kv="q8_0")
    assert not made(drop=(1,))
    assert not made(refine=True)
    assert not was_made_to_measure(Candidate(Recipe("Q4_K_M"), "", "", predicted={"kld_mean": 1}))


def test_what_is_left_is_said_with_what_tries_it(probed):
    state = probed.state()
    words = step_left(probed.given, state)
    size = propose_last_step(open_search(probed.given, state)[0])[0].predicted["size_bytes"]
    assert words == f"a mix of about {size / 1e6:.3g} MB should hold"
    assert not is_spent(probed.given, state)
    more = more_evaluations(probed.given, state)
    assert spare_evaluations(probed.sizes, more) >= 5 + spare_evaluations(probed.sizes, 25)


def test_a_refutation_is_not_rationed_by_rounds():
    given = dataclasses.replace(study(optimise="size_bytes", kld=0.03), max_rounds=2)
    recipe = Recipe("Q4_K_M")

    def on_both(search, report):
        rows = [("search", search), ("report", report)]
        return StudyResults(
            text_results=tuple(
                TextResult(recipe, level, {"kld_mean": Measurement("kld_mean", v, "", "measured")})
                for level, v in rows
            )
        )

    assert may_ask_planner(given, 1, [], StudyResults())
    assert not may_ask_planner(given, 30, [], StudyResults())
    assert not may_ask_planner(given, 30, [], on_both(0.02, 0.029))
    assert may_ask_planner(given, 30, [], on_both(0.0285, 0.0317))
