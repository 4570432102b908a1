"""Item by item: how far a variant's answers are from the baseline's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.types import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

RESAMPLES = 1000
NAMES = {"exact_match": "acc"}  # a share of right answers, whatever lm-eval calls it


@dataclass(frozen=True)
class TaskResult:
    """A task's outcome. metric: lm-eval's name; value: over all items; larger: whether more is
    better; items: (key, score or None where only all of them have one, answer or None), in a fixed
    order.
    """

    metric: str
    value: float
    larger: bool
    items: tuple[tuple[str, float | None, Any], ...]

    @staticmethod
    def of(data: dict[str, Any]) -> TaskResult:
        """From its JSON form."""
        return TaskResult(
            data["metric"],
            data["value"],
            data["larger"],
            tuple((k, s, a) for k, s, a in data["items"]),
        )

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """Score by item, where each has one."""
        found = [s for _, s, _ in self.items]
        return None if any(s is None for s in found) else np.array(found, np.float64)

    @property
    def answered(self) -> bool:
        """Whether the items have answers that can be compared."""
        return any(a is not None for _, _, a in self.items)


def task_measurements(
    name: str, own: TaskResult, base: TaskResult | None, seed: int, protocol: str
) -> list[Measurement]:
    """task:<name>:<metric> with its standard error (the sample's, over items) and, beside a
    baseline, retention, agreement, flips and McNemar's p.
    """
    n = len(own.items)

    def row(what: str, value: float, stderr: float | None = None) -> Measurement:
        return Measurement(
            f"task:{name}:{what}", value, "1", "measured", stderr, n, protocol=protocol
        )

    metric = NAMES.get(own.metric, own.metric)
    found = [row(metric, own.value, score_error(own.scores))]
    if base is None:
        return found
    found += [
        row(f"baseline_{metric}", base.value, score_error(base.scores)),
        *retention(row, own, base, seed),
    ]
    if own.answered and base.answered:
        share = float(np.mean([a[2] == b[2] for a, b in zip(own.items, base.items, strict=True)]))
        found.append(row("agreement", share, float(np.sqrt(share * (1 - share) / n))))
    a, b = own.scores, base.scores
    if a is not None and b is not None and set(np.unique([a, b])) <= {0.0, 1.0}:
        lost, won = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
        share = (lost + won) / n
        found += [
            row("flips", share, float(np.sqrt(share * (1 - share) / n))),
            row("mcnemar_p", mcnemar(lost, won)),
        ]
    return found


def score_error(scores: NDArray[np.float64] | None) -> float | None:
    """The standard error of the mean."""
    return (
        None
        if scores is None or len(scores) < 2
        else float(scores.std(ddof=1) / np.sqrt(len(scores)))
    )


def retention(row: Any, own: TaskResult, base: TaskResult, seed: int) -> list[Measurement]:
    """The variant's score over the baseline's (the other way round where less is better),
    bootstrapped over paired items.
    """
    over, under = (own, base) if own.larger else (base, own)
    if not under.value:
        return []
    a, b, spread = over.scores, under.scores, None
    if a is not None and b is not None:
        draws = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, len(a)))
        below = b[draws].mean(1)
        spread = float(np.std(a[draws].mean(1)[below > 0] / below[below > 0], ddof=1))
    return [row("retention", over.value / under.value, spread)]


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p of McNemar's exact test: whether so uneven a split of the items that changed
    could be chance.

    The binomial test of the discordant pairs with probability 1/2 (McNemar 1947,
    https://doi.org/10.1007/BF02295996; exact form: https://en.wikipedia.org/wiki/McNemar%27s_test).
    """
    from scipy.stats import binomtest

    return 1.0 if lost + won == 0 else float(binomtest(lost, lost + won, 0.5).pvalue)
