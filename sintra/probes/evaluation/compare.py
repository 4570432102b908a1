"""Compare a variant's answers to a task with the baseline's, item by item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from sintra.core import lazy
from sintra.core.types import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

RESAMPLES = 1000  # of the bootstrap
METRIC_NAMES = {"exact_match": "acc"}  # a share of right answers, whatever lm-eval calls it

Answer = int | str | bool | None
Item = tuple[str, float | None, Answer]
"""(key, score, answer): score is None where only all items together have one; answer is None where
the model gave none that can be compared."""


class TaskJson(TypedDict):
    """The content of items.json."""

    metric: str
    value: float
    larger: bool
    items: tuple[Item, ...]


@dataclass(frozen=True)
class TaskResult:
    """A model's outcome in a task."""

    metric: str  # lm-eval's name
    value: float  # over all items
    larger_is_better: bool
    items: tuple[Item, ...]  # in a fixed order

    @staticmethod
    def of(data: TaskJson) -> TaskResult:
        """Return the result in its JSON form."""
        items = tuple((key, score, answer) for key, score, answer in data["items"])
        return TaskResult(data["metric"], data["value"], data["larger"], items)

    def as_json(self) -> TaskJson:
        """Return the JSON form."""
        return {
            "metric": self.metric,
            "value": self.value,
            "larger": self.larger_is_better,
            "items": self.items,
        }

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """Return the score of each item, (items,), where each has one."""
        scores = [score for _, score, _ in self.items]
        return None if any(s is None for s in scores) else np.array(scores, np.float64)

    @property
    def has_answers(self) -> bool:
        """Return whether the items have answers that can be compared."""
        return any(answer is not None for _, _, answer in self.items)


MakeRow = Callable[..., Measurement]
"""(name of the number, value, standard error or None) -> a measurement of the task."""


def task_measurements(
    name: str, result: TaskResult, base: TaskResult | None, seed: int, protocol: str
) -> list[Measurement]:
    """Return task:<name>:<metric> with its standard error (the sample's, over items).

    Beside a baseline also retention, agreement, flips and McNemar's p. seed: of the bootstrap.
    """
    count = len(result.items)

    def make_row(number: str, value: float, stderr: float | None = None) -> Measurement:
        return Measurement(
            f"task:{name}:{number}", value, "1", "measured", stderr, count, protocol=protocol
        )

    metric = METRIC_NAMES.get(result.metric, result.metric)
    rows = [make_row(metric, result.value, score_error(result.scores))]
    if base is not None:
        rows.append(make_row(f"baseline_{metric}", base.value, score_error(base.scores)))
        rows += retention(make_row, result, base, seed)
        rows += agreement(make_row, result, base)
        rows += flips(make_row, result, base)
    return rows


def score_error(scores: NDArray[np.float64] | None) -> float | None:
    """Return the standard error of the mean of scores, (items,)."""
    if scores is None or len(scores) < 2:
        return None
    return float(scores.std(ddof=1) / np.sqrt(len(scores)))


def share_error(share: float, count: int) -> float:
    """Return the standard error of a share among `count` items, that of a binomial."""
    return float(np.sqrt(share * (1 - share) / count))


def retention(
    make_row: MakeRow, result: TaskResult, base: TaskResult, seed: int
) -> list[Measurement]:
    """Return the variant's score over the baseline's, bootstrapped over paired items.

    The other way round where less is better; nothing where the divisor is 0.
    """
    over, under = (result, base) if result.larger_is_better else (base, result)
    if not under.value:
        return []
    above, below, stderr = over.scores, under.scores, None
    if above is not None and below is not None:
        draws = np.random.default_rng(seed).integers(0, len(above), (RESAMPLES, len(above)))
        divisors = below[draws].mean(1)
        ratios = above[draws].mean(1)[divisors > 0] / divisors[divisors > 0]
        stderr = float(np.std(ratios, ddof=1))
    return [make_row("retention", over.value / under.value, stderr)]


def agreement(make_row: MakeRow, result: TaskResult, base: TaskResult) -> list[Measurement]:
    """Return the share of items with the same answer, where both models have answers."""
    if not (result.has_answers and base.has_answers):
        return []
    same = [a[2] == b[2] for a, b in zip(result.items, base.items, strict=True)]
    share = float(np.mean(same))
    return [make_row("agreement", share, share_error(share, len(same)))]


def flips(make_row: MakeRow, result: TaskResult, base: TaskResult) -> list[Measurement]:
    """Return the share of items that became right or wrong, and McNemar's p.

    Nothing where items are not simply right (1) or wrong (0).
    """
    scores, base_scores = result.scores, base.scores
    if scores is None or base_scores is None:
        return []
    if not set(np.unique([scores, base_scores])) <= {0.0, 1.0}:
        return []
    lost = int(((base_scores == 1) & (scores == 0)).sum())
    won = int(((base_scores == 0) & (scores == 1)).sum())
    share = (lost + won) / len(scores)
    return [
        make_row("flips", share, share_error(share, len(scores))),
        make_row("mcnemar_p", mcnemar(lost, won)),
    ]


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p of McNemar's exact test.

    It says whether so uneven a split of the items that changed could be chance: the binomial test
    of the discordant pairs with probability 1/2 (McNemar 1947, https://doi.org/10.1007/BF02295996;
    exact form: https://en.wikipedia.org/wiki/McNemar%27s_test).
    """
    from scipy.stats import binomtest  # slow to import: not on the no-op path

    return 1.0 if lost + won == 0 else float(binomtest(lost, lost + won, 0.5).pvalue)
