"""The solver's search: what has to be measured first, the fitted model, the best mix by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Level, Proposal
from sintra.formats.gguf.sizes import PRESET_BITS, MixSizes
from sintra.hardware.estimate.estimate import Shape
from sintra.planning.belief import kld_limit, probability_of_holding
from sintra.planning.solver.groups import group_words
from sintra.planning.solver.kld_target import kld_target
from sintra.planning.solver.mixes import Mix, MixSettings, observe_mixes
from sintra.planning.solver.problem import Problem, without_far_types
from sintra.planning.solver.surrogate import Prior, Space, Surrogate, fit_surrogate
from sintra.planning.solver.transfer import prior_of_lessons
from sintra.planning.state import PlannerState

if TYPE_CHECKING:
    from sintra.planning.solver.surrogate import Array

CONFIDENCE = 0.9  # of the predicted interval
EVEN = 0.5  # probability from which a variant counts as holding the limits
LATEST = 2  # mixes that the optimism is learned from
MOST_OPTIMISM = 0.2  # of the logarithm of the KLD


def unchanged(problem: Problem) -> Problem:
    """Return the problem as it is."""
    return problem


@dataclass(frozen=True)
class Search:
    """A study in which enough was measured to fit the model of the KLD."""

    study: Study
    settings: MixSettings
    state: PlannerState
    sizes: MixSizes
    shape: Shape
    surrogate: Surrogate

    @property
    def space(self) -> Space:
        """Return the groups and distortions that the model is over."""
        return self.surrogate.space

    @property
    def kld_target(self) -> float:
        """Return the KLD on the search text that the limits allow, in nats."""
        target = kld_target(self.study, self.state.results, self.surrogate.misfit)
        return target / self.optimism

    @property
    def optimism(self) -> float:
        """Return by what factor the latest best mixes' KLDs were foreseen too low; at least 1.

        The best mix by a model is one that the model flatters. Half of it (of the logarithm) is
        expected again, since the model has learned from it.
        """
        misses = [
            math.log(kld.value / candidate.predicted["kld_mean"])
            for candidate in self.state.results.candidates
            if candidate.author == self.settings.author
            and candidate.predicted.get("kld_mean")
            and (kld := self.state.results.kld(candidate.recipe, "search"))
        ][-LATEST:]
        return math.exp(min(max(sum(misses) / (2 * LATEST), 0.0), MOST_OPTIMISM))

    def solve(
        self,
        theta: Array | None = None,
        kv: str = "f16",
        narrow: Callable[[Problem], Problem] = unchanged,
        kld_factor: float = 1.0,
    ) -> Mix | None:
        """Return the best mix under the limits, or None where there is none.

        theta: parameters of the model instead of the most probable ones; kv: type of the KV cache;
        narrow: further restrictions of the problem; kld_factor: what is left of a mix's KLD after
        what will be done to it later. Where no mix holds all limits, the one with the least loss
        within those on bytes and time.
        """
        weights = self.surrogate.weights(theta)
        problem = narrow(self.settings.problem(self.study, self.sizes, self.shape, weights, kv))
        max_loss = self.surrogate.loss_at(self.kld_target / kld_factor, theta)
        mix = problem.solve(max_loss=max_loss)
        if mix is None:
            problem = replace(problem, objective="loss")
            mix = problem.solve()
        if mix is None:
            return None
        return without_far_types(problem, self.sizes, mix).solve(max_loss=max_loss) or mix

    def predict(self, mix: Mix) -> tuple[dict[str, float], str]:
        """Return a mix's size and KLD with its 90 % interval, by metric and in words."""
        (value, low, high), size = self.surrogate.predict(mix), self.sizes.total(mix)
        predicted = {
            "size_bytes": float(size),
            "kld_mean": value,
            "kld_mean_low": low,
            "kld_mean_high": high,
        }
        words = f"{size / 1e6:.2f} MB, {value:.5f} nats expected ({low:.5f} to {high:.5f})"
        return predicted, words

    def propose(self, mix: Mix, why: str, level: Level = "search") -> Proposal:
        """Propose a mix, with what is expected of it."""
        predicted, words = self.predict(mix)
        recipe = self.settings.mix_recipe(mix)
        return Proposal(
            recipe, f"{why}: {words}", self.settings.author, level, predicted, CONFIDENCE
        )

    def holding(self) -> list[Candidate]:
        """Return the candidates that hold the limits, or do so as likely as not, the best first."""
        goal, results = self.study.goal, self.state.results
        ratio = results.text_ratio(kld_limit(goal))
        return [
            c
            for c in ranked(results.candidates, goal)
            if not judge(c, goal).violated and probability_of_holding(c, ratio, goal) >= EVEN
        ]

    def incumbent(self) -> Recipe | None:
        """Return the best mix so far that holds the limits."""
        return next((c.recipe for c in self.holding() if c.recipe.complete), None)


def open_search(study: Study, state: PlannerState) -> tuple[Search | None, list[Proposal]]:
    """Return the search, and what has to be measured before its model can be trusted.

    First the files and the type curve, then the probes, unless similar models' are known. The
    search is None while nothing is measured, and where mixes can't be made of the model. Raises
    UserError.
    """
    settings = MixSettings.of(study, state.model.columns)
    if not state.results.attempts:
        return None, settings.propose_files() + settings.propose_type_curve()
    settings, sizes, shape = (
        settings.with_built_types(state.model),
        state.model.sizes,
        state.model.shape,
    )
    if sizes is None or shape is None or len(settings.types) < 2:
        why = "mixes can't be made of this model (see what failed above): a stock preset"
        return None, [Proposal(Recipe(t), why, settings.author) for t in PRESET_BITS]
    space = settings.space(state.model, sizes)
    observations = observe_mixes(settings, state.results, space)
    prior: Prior | None
    if by_gradient := settings.prior_by_gradient(state.model, space, sizes):
        prior, probed = by_gradient
    else:
        prior = prior_of_study(settings, state, space, sizes)
        probed = [] if observations and prior else settings.probed_groups(space, sizes)
    first = unfinished_probes(settings, state, space, probed)
    if not observations:
        return None, first
    surrogate = fit_surrogate(space, observations, prior=prior)
    return Search(study, settings, state, sizes, shape, surrogate), first


def prior_of_study(
    settings: MixSettings, state: PlannerState, space: Space, sizes: MixSizes
) -> Prior | None:
    """Return what similar models' studies say of this one, or None.

    None where there are none, or where a measurement has proved them wrong: a mix's KLD outside the
    interval in which it was expected.
    """
    for candidate in state.results.candidates:
        kld = state.results.kld(candidate.recipe, "search")
        predicted = candidate.predicted
        if (
            kld
            and candidate.author == settings.author
            and "kld_mean" in predicted
            and not predicted["kld_mean_low"] <= kld.value <= predicted["kld_mean_high"]
        ):
            return None
    return prior_of_lessons(state.priors.lessons, space.groups, sizes.matrices, settings.types)


def unfinished_probes(
    settings: MixSettings, state: PlannerState, space: Space, groups: list[str]
) -> list[Proposal]:
    """Return all probes of groups while one of them was not tried yet, else none."""
    probes = propose_probes(settings, space, groups)
    return probes if any((p.recipe, p.level) not in state.results.attempts for p in probes) else []


def propose_probes(settings: MixSettings, space: Space, groups: list[str]) -> list[Proposal]:
    """Propose each group at the lowest type with all others at the highest."""
    low, high = settings.types[0], settings.types[-1]
    return [
        Proposal(
            settings.mix_recipe(
                {name: low if own == group else high for name, own in space.groups.items()}
            ),
            f"sensitivity of {words}: {low}, everything else {high}",
            settings.author,
            probe=words,
        )
        for group in groups
        if (words := group_words(group, space.group_names))
    ]
