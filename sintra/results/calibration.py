"""How good predictions were: the intervals of the KLD model, and a language model's confidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sintra.planning.state import ADVISER
from sintra.store.history import HistoryRow
from sintra.study.candidates import SEARCH_KLD
from sintra.study.json_types import CandidateJson, ResultJson
from sintra.study.result_upgrade import parse_result


def calibration_report(results: Sequence[ResultJson]) -> str:
    """Return two lines, from the last result of each study."""
    candidates = [c for r in results for c in r["candidates"]]
    return f"{interval_line(candidates)}\n{confidence_line(results)}"


def interval_line(candidates: Iterable[CandidateJson]) -> str:
    """Return how often a mix's KLD on the search text lay in its predicted 90 % interval."""
    inside = [
        predicted["kld_mean_low"] <= kld <= predicted["kld_mean_high"]
        for c in candidates
        if "kld_mean_low" in (predicted := c["predicted"]) and (kld := search_kld(c)) is not None
    ]
    if not inside:
        return "90 % intervals of the KLD model: no prediction has been measured yet"
    return (
        f"90 % intervals of the KLD model: {sum(inside)} of {len(inside)} measured inside "
        f"({sum(inside) / len(inside):.0%})"
    )


def search_kld(candidate: CandidateJson) -> float | None:
    """Return a candidate's mean KLD on the search text, nats."""
    rows = candidate["measurements"]
    return next((m["value"] for m in rows if m["metric"] == SEARCH_KLD), None)


def confidence_line(results: Iterable[ResultJson]) -> str:
    """Return how sure the language model said it was, beside how often its variant was better than
    all earlier ones, and the Brier score.

    That is the mean squared difference: 0 is perfect, 0.25 is what always saying 50 % gets.
    """
    outcomes = [outcome for result in results for outcome in advice_outcomes(result)]
    if not outcomes:
        return "the language model's confidence: none of its advice has been measured yet"
    count = len(outcomes)
    sure = sum(stated for stated, _ in outcomes) / count
    better = sum(beats_earlier for _, beats_earlier in outcomes)
    brier = sum((stated - beats_earlier) ** 2 for stated, beats_earlier in outcomes) / count
    return (
        f"the language model's confidence: {sure:.0%} sure on average, {better} of {count} better "
        f"than before, Brier {brier:.2f}"
    )


def advice_outcomes(result: ResultJson) -> list[tuple[float, bool]]:
    """Return (how sure, whether better than every candidate of earlier rounds) for each variant
    that a language model advised.
    """
    order = result["candidates"]  # the best first
    return [
        (stated, beats_earlier_rounds(order, rank))
        for rank, candidate in enumerate(order)
        if candidate["author"] == ADVISER and (stated := candidate.get("stated")) is not None
    ]


def beats_earlier_rounds(order: Sequence[CandidateJson], rank: int) -> bool:
    """Return whether no candidate of an earlier round stands before the one at this rank."""
    own_round = order[rank]["round"]
    return all(c["round"] >= own_round for c in order[:rank])


def last_results(rows: Iterable[HistoryRow]) -> list[ResultJson]:
    """Return the last result of each study, from rows of the history.

    Results from before the round of a candidate was recorded are left out.
    """
    last = {row["study"]: row for row in rows}
    results: list[ResultJson] = [parse_result(row["result"]) for row in last.values()]
    return [r for r in results if all("round" in c for c in r["candidates"])]
