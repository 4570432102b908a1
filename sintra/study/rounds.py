"""The rounds of a study: plan the next one, list the steps of one, decide when the study ends."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sintra.build.graph import SURROGATE_PLANNERS, Graph
from sintra.build.step import Step
from sintra.config.study import Study
from sintra.core import lazy, plugins
from sintra.core.format import PLANNED
from sintra.core.judge import judge
from sintra.core.types import Candidate, Proposal
from sintra.hardware.boards.corrections import correct_study
from sintra.planning.bounds import impossible_reason
from sintra.planning.floor import floor_reason
from sintra.planning.other_formats import buildable_formats, propose_other_formats
from sintra.planning.state import PlannerState, StudyResults
from sintra.store.files import is_regular, read_regular, write_atomic
from sintra.store.store import Store
from sintra.study.adviser import AdviserSession
from sintra.study.candidates import MEASURED_LEVELS, collect_candidates
from sintra.study.finalists import (
    early_finalist,
    finalists_by_format,
    tried_finalists,
)
from sintra.study.first_look import STUDY, first_look, is_first_look
from sintra.study.planner_state import planner_state_of, text_results
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

if TYPE_CHECKING:
    from sintra.planning.solver import last_step
    from sintra.planning.solver import search as solver_search
    from sintra.study import lessons
else:  # the no-op path doesn't need scipy
    last_step = lazy.module("sintra.planning.solver.last_step")
    solver_search = lazy.module("sintra.planning.solver.search")
    lessons = lazy.module("sintra.study.lessons")

EXTRA_ROUNDS = 6  # added to max_rounds before the most rounds of a study are counted
TIMES_MAX_ROUNDS = 2  # a study ends after so many times its planners' rounds, extra ones included
NOTHING_PROPOSED = "the planner proposed nothing"


def round_steps(graph: Graph, planned: Round) -> list[Step]:
    """Return every step that a round needs, inputs first, each once."""
    first = graph.conversion() if planned.proposals else None
    ends = [first] if first else []
    for proposal in planned.proposals:
        ends += graph.variant(proposal.recipe, proposal.level).ends()
    return list({step.name: step for end in ends for step in end.all()}.values())


def step_reasons(graph: Graph, planned: Round) -> dict[str, str]:
    """Return step name -> author and reason, for the steps that only one recipe needs."""
    reasons = {}
    for proposal in planned.proposals:
        variant = graph.variant(proposal.recipe, proposal.level)
        for step in (variant.quantize, *variant.ends()):
            reasons[step.name] = f"{proposal.author}: {proposal.why}"
    return reasons


def next_round(
    graph: Graph, store: Store, rounds: Sequence[Round], session: AdviserSession | None = None
) -> Round:
    """Return what to do next: more variants, a decision on the report text, or to stop.

    session: the run's use of a language model; without it (a dry run) none is asked.
    """
    number = len(rounds) + 1
    if number == 1 and (stop := impossible_reason(graph.study, graph.source)):
        return Round(number, stop=stop)
    if number == 1 and (presets := first_look(graph)):
        return Round(number, tuple(presets))
    candidates = collect_candidates(graph, store, rounds)
    if stop := floor_reason(graph.study, candidates, len(planners_rounds(rounds)) + 1):
        return Round(number, stop=stop)
    most = round_limit(graph.study)
    if number >= most:
        return last_round(graph, store, rounds, candidates, f"{most} rounds are the most")
    proposals = early_finalist(graph.study, candidates, rounds)
    proposals = proposals or new_variants(graph, store, rounds, candidates, session)
    if not proposals:
        proposals = finalists_by_format(graph.study, candidates, tried_finalists(rounds))
    if proposals:
        return Round(number, tuple(proposals))
    return last_round(graph, store, rounds, candidates)


def round_limit(study: Study) -> int:
    """Return the number of the round that ends a study whatever was measured.

    It leaves as many rounds to finalists as to planners. A planner, a plugin or another machine's
    rounds must not keep a study going for ever.
    """
    return TIMES_MAX_ROUNDS * (study.max_rounds + EXTRA_ROUNDS)


def new_variants(
    graph: Graph,
    store: Store,
    rounds: Sequence[Round],
    candidates: list[Candidate],
    session: AdviserSession | None,
) -> list[Proposal]:
    """Return what no round has proposed yet.

    Once planners' rounds are used up: nothing, but where the end would be worse than what is known.
    """
    study = graph.study
    planned: list[Proposal] = []
    if PLANNED in buildable_formats(study):
        on_both = measured_on_both(graph, store, rounds)
        if may_ask_planner(study, rounds_used(rounds), candidates, on_both):
            planned = ask_planner(graph, store, rounds, candidates, session)
        elif study.planner.name in SURROGATE_PLANNERS:
            planned = ask_last_step(graph, store, rounds, candidates)
    others = propose_other_formats(study) if rounds_used(rounds) < study.max_rounds else []
    earlier = {(p.recipe, p.level) for r in rounds for p in r.proposals}
    return [p for p in [*others, *planned] if (p.recipe, p.level) not in earlier]


def may_ask_planner(
    study: Study, rounds: int, candidates: list[Candidate], on_both: StudyResults
) -> bool:
    """Return whether planners may propose after so many rounds.

    They may beyond max_rounds while nothing holds the limits and the report text has refuted a
    finalist: the end must not be worse than what is known. `round_limit` ends that too.
    """
    if rounds < study.max_rounds:
        return True
    if any(judge(c, study.goal).status == "pass" for c in candidates):
        return False
    return bool(on_both.refuted(study.goal))


def ask_planner(
    graph: Graph,
    store: Store,
    rounds: Sequence[Round],
    candidates: list[Candidate],
    session: AdviserSession | None,
) -> list[Proposal]:
    """Return the proposals of the study's planner."""
    planner = plugins.load("planners", graph.study.planner.name)
    proposals: list[Proposal] = planner(*planners_view(graph, store, rounds, candidates, session))
    return proposals


def ask_last_step(
    graph: Graph, store: Store, rounds: Sequence[Round], candidates: list[Candidate]
) -> list[Proposal]:
    """Return the mix that the model of the loss foresees to be clearly smaller than the winner.

    Only once something holds the limits: until then the best on the search text are measured.
    """
    if not any(judge(c, graph.study.goal).status == "pass" for c in candidates):
        return []
    search, first = solver_search.open_search(*planners_view(graph, store, rounds, candidates))
    return [] if search is None or first else last_step.propose_last_step(search)


def planners_view(
    graph: Graph,
    store: Store,
    rounds: Sequence[Round],
    candidates: list[Candidate],
    session: AdviserSession | None = None,
) -> tuple[Study, PlannerState]:
    """Return what the study's planner is given: it sees only GGUF; a replay sees all.

    A planner's first round is its first, whatever was looked at before.
    """
    replayed = graph.study.planner.name == "replay"
    state = planner_state_of(
        graph,
        store,
        [
            [p for p in r.proposals if replayed or p.recipe.format == PLANNED]
            for r in planners_rounds(rounds)
        ],
        [c for c in candidates if replayed or c.recipe.format == PLANNED],
        session,
    )
    priors = lessons.recall_lessons(graph, store, state.model)
    return correct_study(graph.study, candidates), replace(state, priors=priors)


def planners_rounds(rounds: Sequence[Round]) -> list[Round]:
    """Return the rounds without a first look, which no planner has asked for."""
    return [r for r in rounds if not is_first_look(r.proposals)]


def measured_on_both(graph: Graph, store: Store, rounds: Sequence[Round]) -> StudyResults:
    """Return the measurements on the search and on the report text."""
    proposals = [p for r in rounds for p in r.proposals if p.level in MEASURED_LEVELS]
    return StudyResults(text_results=tuple(text_results(graph, store, proposals)))


def rounds_used(rounds: Sequence[Round]) -> int:
    """Return how many rounds planners have proposed: a first look and finalists are the study's."""
    return sum(any(p.author != STUDY for p in r.proposals) for r in rounds)


def last_round(
    graph: Graph,
    store: Store,
    rounds: Sequence[Round],
    candidates: list[Candidate],
    reason: str = "decided",
) -> Round:
    """Return the round that ends the study, with what the study teaches later ones."""
    gguf = [[p for p in r.proposals if p.recipe.format == PLANNED] for r in planners_rounds(rounds)]
    left = step_left(graph, store, rounds, candidates) if candidates else None
    return Round(
        number=len(rounds) + 1,
        stop=f"{reason}; {left}" if left else reason if candidates else NOTHING_PROPOSED,
        again=store.failed_this_run,
        learned=lessons.learn_lesson(graph, store, gguf, candidates),
    )


def step_left(
    graph: Graph,
    store: Store,
    rounds: Sequence[Round],
    candidates: list[Candidate],
    in_time: bool = True,
) -> str | None:
    """Say which mix is foreseen to be clearly better and was not tried, and what tries it.

    in_time: whether the study ends for another reason than the run's time. None where nothing is
    left, or where the planner has no model to foresee by.
    """
    study = graph.study
    if study.planner.name not in SURROGATE_PLANNERS or PLANNED not in buildable_formats(study):
        return None
    view = planners_view(graph, store, rounds, candidates)
    left = last_step.step_left(*view)
    if left is None or not in_time:
        return left and f"{left}; the next run tries it"
    if rounds_used(rounds) >= study.max_rounds and not last_step.is_spent(*view):
        return f"{left}; max_rounds={2 * study.max_rounds} tries it"
    return f"{left}; planner.evaluations={last_step.more_evaluations(*view)} tries it"


def write_keys(workspace: Workspace, graph: Graph, rounds: Sequence[Round]) -> None:
    """Record the action keys that the study stands on: the roots of `doit gc`."""
    keys = {s.key(workspace.store) for r in rounds for s in round_steps(graph, r)} - {None}
    text = json.dumps(sorted(str(k) for k in keys))
    path = workspace.folder / "keys.json"
    if not is_regular(path) or read_regular(path) != text.encode():
        write_atomic(path, text)
    else:
        with contextlib.suppress(OSError):  # a cache that is read-only serves all the same
            os.utime(path)  # when a study was last run is what `doit gc --older` goes by
