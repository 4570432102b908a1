"""A study ends: nothing is proposed twice, and there is a last round whatever was measured."""

from small_studies import measured, study

from sintra.build.graph import Graph
from sintra.core.artifact import Source
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.store.store import Store
from sintra.study import rounds
from sintra.study.finalists import finalists_by_format, tried_finalists
from sintra.study.round_files import Round


def test_a_finalist_is_proposed_once():
    recipes = [Recipe(kind) for kind in ("Q8_0", "Q6_K", "Q4_K_M")]
    candidates = [measured(r, 0.001, 10 + n) for n, r in enumerate(recipes)]
    first = finalists_by_format(study(), candidates)
    assert [p.recipe for p in first] == recipes[:1]
    tried = tried_finalists([Round(1, tuple(first)), Round(2, (Proposal(recipes[2], "", ""),))])
    assert tried == set(recipes[:1])
    assert [p.recipe for p in finalists_by_format(study(), candidates, tried)] == recipes[1:2]
    assert finalists_by_format(study(), candidates, frozenset(recipes)) == []


def test_a_study_has_a_last_round_whatever_was_measured(tmp_path, tiny):
    """Others' rounds, or a planner that always knows one more, don't keep it going."""
    texts = {
        role: Source("file", digit * 64, role)
        for role, digit in (("calibration", "1"), ("search", "2"), ("report", "3"))
    }
    graph = Graph(study(), Source("folder", "0" * 64, str(tiny)), texts)
    most = rounds.round_limit(graph.study)
    assert most > graph.study.max_rounds
    past = [
        Round(n, (Proposal(Recipe("Q8_0", drop=(n,)), "", "somebody"),)) for n in range(1, most)
    ]
    last = rounds.next_round(graph, Store(tmp_path), past)
    assert (last.number, last.is_last) == (most, True)
    assert last.stop == f"{most} rounds are the most"
