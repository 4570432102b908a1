"""The first round of a study of a real model: stock presets, which need neither curvature nor
calibration text, so that there is a result early and something to compare with.

Tiny models' first files are there as soon as these would be; a study of one begins with its
planner.
"""

from __future__ import annotations

from collections.abc import Sequence

from sintra.build.graph import SURROGATE_PLANNERS, Graph
from sintra.core.format import PLANNED
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.planning.bounds import TINY, weights_by_columns
from sintra.planning.other_formats import buildable_formats

STUDY = "study"  # author of what no planner has to ask for
PRESETS = ("Q8_0", "Q4_K_M")  # the largest that is common, and the one that most people take


def first_look(graph: Graph) -> list[Proposal]:
    """Return the stock presets that are measured before anything is searched."""
    study = graph.study
    if study.planner.name not in SURROGATE_PLANNERS or PLANNED not in buildable_formats(study):
        return []
    weights = sum(weights_by_columns(graph.source).values())
    if 0 < weights <= TINY:  # of a hub model nothing is known yet: no tiny one, as a rule
        return []
    why = "as llama.cpp makes it: a result soon, and something to compare with"
    return [Proposal(Recipe(preset), why, STUDY) for preset in PRESETS]


def is_first_look(proposals: Sequence[Proposal]) -> bool:
    """Tell whether a round's proposals are those of a first look."""
    return bool(proposals) and all(p.author == STUDY and p.level == "search" for p in proposals)
