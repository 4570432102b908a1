"""What the report text will say of a variant's KLD, as one belief that everything asks.

KLDs and their ratios are taken as log-normal: a median and a standard deviation of the logarithm. A
variant's belief is the product of what is known of it on the search text (measured, or foreseen by
the model of the quantization loss) and the ratio of the two texts, which is learned from every
variant that was measured on both. Pure functions of frozen values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sintra.core.types import Candidate, Goal, Measurement

NORMAL = NormalDist()
Z90 = NORMAL.inv_cdf(0.95)  # half the width of a 90 % interval, in standard deviations
LEAST_NATS = 1e-9  # below which a KLD counts as this
# Of the logarithm of the ratio of two texts, before anything was measured on both: 0.9 to 1.2 on
# four models, and a text of 5,120 tokens has itself an error of 9 % on SmolLM2.
RATIO_SPREAD = 0.15
SCATTER = 0.04  # how one variant's ratio differs from another's, until it was seen
SCATTER_SEEN = 4  # variants that SCATTER counts as
DRIFT = 0.05  # by which ratios differ of KLDs that are e times as large
# Share of a standard error that is a variant's own: all are measured on the same text, whose draw
# is part of the ratio of the texts.
OWN_ERROR = 0.25
AIM = 0.6  # probability of holding the limit that mixes are solved for


@dataclass(frozen=True)
class Belief:
    """A log-normal quantity: a KLD in nats, or a ratio of two."""

    log_median: float
    log_sd: float

    @staticmethod
    def of(median: float, log_sd: float) -> Belief:
        """Return the belief with a median and a standard deviation of the logarithm."""
        return Belief(math.log(max(median, LEAST_NATS)), log_sd)

    @property
    def median(self) -> float:
        """Return the median."""
        return math.exp(self.log_median)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the ends of the 90 % interval."""
        return self.quantile(0.05), self.quantile(0.95)

    def quantile(self, probability: float) -> float:
        """Return the value that is not exceeded with a probability."""
        return math.exp(self.log_median + self.log_sd * NORMAL.inv_cdf(probability))

    def probability_within(self, limit: float) -> float:
        """Return the probability of at most a limit."""
        if limit <= 0:
            return 0.0
        gap = math.log(limit) - self.log_median
        return NORMAL.cdf(gap / self.log_sd) if self.log_sd else float(gap >= 0)

    def times(self, other: Belief) -> Belief:
        """Return the product with another quantity that is independent of this one."""
        return Belief(self.log_median + other.log_median, math.hypot(self.log_sd, other.log_sd))

    def learn(self, logs: Sequence[float], sds: Sequence[float]) -> Belief:
        """Return the belief once logarithms of the quantity were seen, each with its error."""
        weights = [self.log_sd**-2, *(sd**-2 for sd in sds)]
        values = [self.log_median, *logs]
        total = sum(weights)
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
        return Belief(mean, total**-0.5)


@dataclass(frozen=True)
class TextPair:
    """The KLDs of one variant on both texts, nats."""

    search: float
    report: float

    @property
    def log_ratio(self) -> float:
        """Return the logarithm of the report text's over the search text's."""
        return math.log(max(self.report, LEAST_NATS) / max(self.search, LEAST_NATS))


@dataclass(frozen=True)
class TextRatio:
    """The report text's KLD over the search text's."""

    common: Belief  # of all variants near the limit
    scatter: float  # standard deviation of one variant's logarithm about the common one

    @property
    def of_one(self) -> Belief:
        """Return the belief about the ratio of one variant that is measured on no report text."""
        return self.common.times(Belief(0.0, self.scatter))

    def of_measured(self, kld: float, stderr: float) -> Belief:
        """Return what the report text will say of a variant measured on the search text, nats."""
        own = OWN_ERROR * stderr / max(kld, LEAST_NATS)
        return self.of_one.times(Belief.of(kld, own))

    def target(self, limit: float, log_sd: float) -> float:
        """Return the KLD to foresee on the search text for the report text to hold a limit.

        It does so with probability AIM; log_sd is the error of what is foreseen.
        """
        return limit / self.of_one.times(Belief(0.0, log_sd)).quantile(AIM)


def learn_ratio(pairs: Iterable[TextPair], near: float | None = None) -> TextRatio:
    """Return the ratio of the texts by what was measured on both.

    near: the KLD in nats that matters; what lies far from it says less. None: all say the same.
    """
    known = list(pairs)
    logs = [pair.log_ratio for pair in known]
    drifts = [DRIFT * math.log(max(p.search, LEAST_NATS) / near) if near else 0.0 for p in known]
    prior = Belief(0.0, RATIO_SPREAD)
    first = prior.learn(logs, [math.hypot(SCATTER, drift) for drift in drifts])
    misses = [
        (log - first.log_median) ** 2 * SCATTER**2 / (SCATTER**2 + drift**2)
        for log, drift in zip(logs, drifts, strict=True)
    ]
    freedom = SCATTER_SEEN + max(0, len(misses) - 1)
    scatter = math.sqrt((SCATTER_SEEN * SCATTER**2 + sum(misses)) / freedom)
    return TextRatio(prior.learn(logs, [math.hypot(scatter, d) for d in drifts]), scatter)


def kld_limit(goal: Goal) -> float | None:
    """Return a goal's limit on the KLD in nats, or None where it has none."""
    return min((c.limit for c in goal.constraints if c.metric == "kld_mean"), default=None)


def ratio_of_candidates(candidates: Iterable[Candidate], goal: Goal) -> TextRatio:
    """Return the ratio of the texts by the candidates that were measured on both."""
    pairs = [
        TextPair(search.value, report.value)
        for c in candidates
        if c.decided and (search := c.find("kld_mean_search")) and (report := c.find("kld_mean"))
    ]
    return learn_ratio(pairs, kld_limit(goal))


def expected_on_report(candidate: Candidate, ratio: TextRatio) -> Belief | None:
    """Return what the report text will say of a candidate, or has said; None where it is not
    measured at all.
    """
    row = candidate.find("kld_mean")
    if row is None:
        return None
    if candidate.decided:
        return Belief.of(row.value, 0.0)
    return ratio.of_measured(row.value, row.stderr or 0.0)


def as_measurement(belief: Belief) -> Measurement:
    """Return a belief about the KLD on the report text as a row with its 90 % interval."""
    low, high = belief.interval
    return Measurement("kld_mean", belief.median, "nats", "estimated", low=low, high=high)


def probability_of_holding(candidate: Candidate, ratio: TextRatio, goal: Goal) -> float:
    """Return the probability that a candidate holds the goal's limit on the KLD; 1 without one."""
    limit, belief = kld_limit(goal), expected_on_report(candidate, ratio)
    if limit is None:
        return 1.0
    return 0.0 if belief is None else belief.probability_within(limit)
