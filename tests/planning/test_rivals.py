"""Mixes drawn from the model's uncertainty are compared only where they promise enough."""

import pytest
from searches import Run, study
from worlds import World

from sintra.planning.solver.improvement import (
    RIVAL_SAVING,
    pays_by_draw,
    propose_improvement,
    sample_worlds,
)
from sintra.planning.solver.mixes import mix_of
from sintra.planning.solver.search import open_search


def settled_search(**goal):
    """A search whose best mix by the model is measured, before anything is drawn."""
    world = World(0)
    run = Run(study(**goal, kld=world.kld(world.uniform("Q3_K"))), world)
    while True:
        search, proposals = open_search(run.given, run.state())
        proposals = proposals or propose_improvement(search)
        if not proposals or any(p.level == "screen" for p in proposals):
            return search
        run.rounds.append(proposals)
        for proposal in proposals:
            run.measure(proposal)


@pytest.fixture(scope="module")
def search():
    return settled_search(optimise="size_bytes")


def test_one_percent_of_the_bytes_is_worth_a_comparison(search):
    incumbent = search.incumbent()
    size = search.sizes.total(mix_of(incumbent, search.space))
    drawn = list(sample_worlds(search))
    paying = [mix for theta, mix in drawn if pays_by_draw(search, incumbent, theta, mix)]
    sizes = [search.sizes.total(mix) for _, mix in drawn]
    assert [search.sizes.total(m) for m in paying] == [
        s for s in sizes if s < size * (1 - RIVAL_SAVING)
    ]
    assert len(paying) < len(drawn), "some promise nothing: they were compared before"


def test_a_mix_promises_nothing_over_itself(search):
    incumbent = search.incumbent()
    mix = mix_of(incumbent, search.space)
    assert not pays_by_draw(search, incumbent, search.surrogate.theta, mix)
