"""Who is measured on the report text, and how often what it says is wrong."""

import numpy as np
from small_studies import study

from sintra.core.judge import judge, settled
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Measurement, Proposal
from sintra.planning.belief import RATIO_SPREAD, Belief, TextRatio, learn_ratio, ratio_of_candidates
from sintra.study.finalists import early_finalist, finalists
from sintra.study.first_look import STUDY
from sintra.study.round_files import Round

LIMIT = 0.02  # of small_studies.study
UNKNOWN = learn_ratio([])


def candidate(kind, megabytes, kld, report=None, stderr=0.05):
    rows = (
        Measurement("kld_mean_search", kld, "nats", "measured", stderr * kld),
        Measurement("kld_mean", kld if report is None else report, "nats", "measured", 0.03 * kld),
        Measurement("size_bytes", megabytes * 1e6, "bytes", "exact"),
    )
    recipe = Recipe(kind, tensors=((".*", kind),))
    return Candidate(recipe, "", "", rows, decided=report is not None)


def chosen(candidates, ratio=UNKNOWN):
    return [p.recipe.type for p in finalists(study(), candidates, ratio)]


def test_the_smallest_that_holds_as_likely_as_not_comes_first():
    several = [
        candidate("Q3_K", 90, 0.0198),
        candidate("Q4_K", 94, 0.0160),
        candidate("Q5_K", 100, 0.0100),
    ]
    assert chosen(several) == ["Q3_K"]
    harder = TextRatio(Belief.of(1.2, 0.03), 0.04)
    assert chosen(several, harder) == ["Q4_K"]
    assert chosen(several, TextRatio(Belief.of(9.0, 0.03), 0.04)) == ["Q5_K"], "the likeliest"


def test_once_one_holds_only_what_is_worth_it_is_measured():
    holds = candidate("Q8_0", 95, 0.0150, report=0.0180)
    harder = TextRatio(Belief.of(1.2, 0.03), 0.04)
    assert chosen([candidate("Q3_K", 94.9, 0.0100), holds], harder) == [], "0.1 % of the bytes"
    assert chosen([candidate("Q3_K", 93.5, 0.0100), holds], harder) == ["Q3_K"]
    assert chosen([candidate("Q3_K", 91.0, 0.0199), holds], harder) == [], "it must miss"
    probe = candidate("Q8_0", 130, 0.0050, report=0.0060)
    doubtful = [candidate("Q3_K", 91.0, 0.0172), probe]
    assert chosen(doubtful, harder) == ["Q3_K"], "30 % of the bytes are worth a doubt"


def test_a_real_model_tells_early_how_its_texts_differ():
    given = study(name="solver")
    looked = Round(1, (Proposal(Recipe("Q8_0"), "", STUDY),))
    several = [
        candidate("Q3_K", 74, 0.136),
        candidate("Q4_K", 91, 0.028),
        candidate("Q8_0", 145, 0.004),
    ]
    (early,) = early_finalist(given, several, [looked])
    assert (early.recipe.type, early.level) == ("Q4_K", "report")
    assert early_finalist(given, several, [looked, Round(2, (early,))]) == []
    assert early_finalist(given, several, [Round(1, (early,))]) == []
    assert early_finalist(given, several[:0], [looked]) == []
    assert early_finalist(study(name="ladder"), several, [looked]) == []
    assert early_finalist(study("kld_mean", name="solver"), several, [looked]) == []


def test_verdicts_are_seldom_wrong_near_the_limit():
    """Three mixes, the smallest 5 % beyond the limit, the next 5 % within it: with the report
    text's error (3 %) at most one in twenty studies delivers the first, and one refuses the second.
    """
    rng, total, asked, delivered, refused = np.random.default_rng(7), 400, 0, 0, 0
    goal = study().goal
    for _ in range(total):
        common = rng.normal(0, RATIO_SPREAD)
        truth = LIMIT * np.array([1.05, 0.95, 0.80])
        search = truth / np.exp(common) * np.exp(rng.normal(0, 0.0125, 3))
        report = truth * np.exp(rng.normal(0, 0.03, 3))
        sizes = (90, 92, 97)
        found = [
            candidate(kind, size, kld)
            for kind, size, kld in zip(("Q3_K", "Q4_K", "Q5_K"), sizes, search, strict=True)
        ]
        early = candidate("Q8_0", 140, LIMIT * 1.2 / np.exp(common), report=LIMIT * 1.2)
        while True:
            known = [*found, early]
            next_one = finalists(study(), known, ratio_of_candidates(known, goal))
            if not next_one:
                break
            asked += 1
            at = [c.recipe for c in found].index(next_one[0].recipe)
            found[at] = candidate(found[at].recipe.type, sizes[at], search[at], report=report[at])
        winner = settled(found, goal)[0]
        assert judge(winner, goal).status == "pass"
        delivered += winner.recipe.type == "Q3_K"
        refused += judge(found[1], goal).status == "fail" and found[1].decided
    assert delivered / total <= 0.05
    assert refused / total <= 0.05
    assert asked / total <= 2


def test_the_goal_is_what_counts():
    """Where quality is best, more of the finalists are asked at once, as before."""
    given = study("kld_mean", name="solver")
    several = [
        candidate("Q3_K", 94, 0.016),
        candidate("Q4_K", 91, 0.0161),
        candidate("Q5_K", 90, 1),
    ]
    assert len(finalists(given, several, UNKNOWN)) == 2
    tried = frozenset(c.recipe for c in several)
    assert finalists(given, several, UNKNOWN, tried) == []
