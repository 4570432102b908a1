"""Who is measured on the report text, which decides: one at a time, the one that is worth most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sintra.build.graph import SURROGATE_PLANNERS
from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Goal, Proposal
from sintra.planning.belief import (
    TextRatio,
    kld_limit,
    probability_of_holding,
    ratio_of_candidates,
)
from sintra.study.first_look import STUDY, is_first_look
from sintra.study.round_files import Round

AT_ONCE = 2  # finalists of a round where no limit on the KLD says whom to take
EVEN = 0.5  # probability of holding from which the smallest is measured first
WORTH = 0.005  # part of the bytes, times the probability, that is worth a measurement
WHY = "among the best on the search text: measured on the report text"
WHY_EARLY = "near the limit on the search text: how the report text differs from it"


def tried_finalists(rounds: Sequence[Round]) -> frozenset[Recipe]:
    """Return the recipes that a round has had measured on the report text.

    They aren't proposed again, whatever came of it: it wouldn't come out otherwise.
    """
    return frozenset(p.recipe for r in rounds for p in r.proposals if p.level == "report")


def early_finalist(
    study: Study, candidates: Sequence[Candidate], rounds: Sequence[Round]
) -> list[Proposal]:
    """Return the variant that tells, before mixes are built, how the report text differs.

    Where the KLD is limited, and a first look says that the model is a real one: the whole file
    whose KLD on the search text is nearest to the limit.
    """
    limit = kld_limit(study.goal)
    if (
        not limit
        or study.planner.name not in SURROGATE_PLANNERS
        or not rounds
        or tried_finalists(rounds)
    ):
        return []
    whole = [c for c in candidates if c.recipe.uniform and not c.failure and c.value("kld_mean")]
    if not is_first_look(rounds[0].proposals) or not whole:
        return []
    nearest = min(whole, key=lambda c: abs(math.log((c.value("kld_mean") or 1.0) / limit)))
    return [Proposal(nearest.recipe, WHY_EARLY, STUDY, "report")]


def finalists_by_format(
    study: Study, candidates: list[Candidate], tried: frozenset[Recipe] = frozenset()
) -> list[Proposal]:
    """Return the finalists of each format, so that the formats' best can be compared."""
    formats = dict.fromkeys(c.recipe.format for c in candidates)
    ratio = ratio_of_candidates(candidates, study.goal)
    return [
        proposal
        for name in formats
        for proposal in finalists(
            study, [c for c in candidates if c.recipe.format == name], ratio, tried
        )
    ]


def finalists(
    study: Study,
    candidates: list[Candidate],
    ratio: TextRatio,
    tried: frozenset[Recipe] = frozenset(),
) -> list[Proposal]:
    """Return who must be measured on the report text before the study can end.

    The best that aren't refuted, until one of them holds the limits; where none can, the one that
    misses them least. Where the KLD is limited it is one: the first that holds the limit at least
    as likely as not; else the likeliest while nothing holds, and the one worth most once something
    does. Those that were `tried` are passed over.
    """
    order = ranked(candidates, study.goal)
    undecided, winner = [], None
    for candidate in order:
        status = judge(candidate, study.goal).status
        if status == "pass":
            winner = candidate
            break
        open_question = not candidate.decided and candidate.recipe not in tried
        if open_question and (status == "inconclusive" or candidate is order[0]):
            undecided.append(candidate)
    if kld_limit(study.goal) is None:
        chosen = undecided[:AT_ONCE]
    else:
        chosen = most_valuable(undecided, winner, ratio, study.goal)
    return [Proposal(c.recipe, WHY, STUDY, "report") for c in chosen]


def most_valuable(
    undecided: Sequence[Candidate], winner: Candidate | None, ratio: TextRatio, goal: Goal
) -> list[Candidate]:
    """Return the candidate to measure next, best first by the goal; none where none is worth it."""
    odds = {c.recipe: probability_of_holding(c, ratio, goal) for c in undecided}
    if winner is None:
        even = [c for c in undecided if odds[c.recipe] >= EVEN]
        return even[:1] or sorted(undecided, key=lambda c: (-odds[c.recipe], kld_of(c)))[:1]
    worth = {c.recipe: odds[c.recipe] * part_gained(c, winner, goal) for c in undecided}
    paying = [c for c in undecided if worth[c.recipe] >= WORTH]
    even = [c for c in paying if odds[c.recipe] >= EVEN]
    return even[:1] or sorted(paying, key=lambda c: -worth[c.recipe])[:1]


def kld_of(candidate: Candidate) -> float:
    """Return a candidate's KLD in nats; infinite where it is unknown."""
    kld = candidate.value("kld_mean")
    return math.inf if kld is None else kld


def part_gained(candidate: Candidate, winner: Candidate, goal: Goal) -> float:
    """Return by what part of it a candidate betters the winner in what the goal optimizes."""
    own, best = candidate.value(goal.optimise), winner.value(goal.optimise)
    return 1.0 if own is None or not best else goal.sense * (best - own) / abs(best)
