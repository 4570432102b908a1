"""The solver: few measurements, a model of the damage, the best mix under the limits, measured and corrected.

1. Every type once, whole (the files that mixes are put together from), three of them measured: the type curve.
2. Groups of tensors (class x depth) at a low type over the highest one: their sensitivities.
3. The best mix by the fitted model; measured; the model fitted again; until it promises no more than it could tell from
   noise, or the evaluations are spent. Beside the best mix, in each round, those that are best in worlds drawn from the model's
   uncertainty are measured on a part of the text, and the best of them on all of it.
4. The stock preset that comes nearest in size, so that nothing is delivered that measured worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sintra import lazy
from sintra.allocation.groups import bins_for, groups_of
from sintra.allocation.problem import QUALITY, Problem, floored, problem_of
from sintra.allocation.surrogate import Observation, Space, Surrogate, fit
from sintra.errors import UserError
from sintra.judge import judge, ranked
from sintra.matrices import Sizes, bits_per_weight, patterns, resolved
from sintra.planning import History
from sintra.presets import PRESET_BITS
from sintra.types import FILE_TYPES, Level, Proposal, Recipe, Study

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

AUTHOR = "solver"
CURVE, CLOSING = 3, 6
NOTABLE = 0.003
CRUSHED = 4.0
PRESETS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")

Mix = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A study's options, its types from low to high, and the recipes that they make."""

    types: tuple[str, ...]
    evaluations: int
    importance: bool
    rounding: str

    @staticmethod
    def of(study: Study) -> Plan:
        """Checked. Raises UserError."""
        import gguf

        options = study.planner_options
        for name in options["types"]:
            if name not in gguf.GGMLQuantizationType.__members__:
                raise UserError(f"planner.types: {name!r} is no tensor type of ggml, such as Q4_K or IQ4_XS")
        types = tuple(sorted(options["types"], key=bits_per_weight))
        if len(types) < 2:
            raise UserError("planner.types needs two types at least for the solver to choose from")
        if options["rounding"] not in ("nearest", "compensated"):
            raise UserError(f"planner.rounding={options['rounding']} isn't known: use nearest or compensated")
        return Plan(types, options["evaluations"], True, options["rounding"])

    def uniform(self, kind: str) -> Recipe:
        """Every matrix in one type."""
        return Recipe(FILE_TYPES.get(kind, kind), self.importance, (), ((".*", kind),), self.rounding)  # type: ignore[arg-type]

    def mixed(self, mix: Mapping[str, str]) -> Recipe:
        """A mix as a recipe; named by the file type that its commonest type goes with."""
        pairs = patterns(mix)
        return replace(self.uniform(pairs[-1][1]), tensors=pairs)


def propose(study: Study, history: History) -> list[Proposal]:
    """The next round."""
    plan = Plan.of(study)
    if not history.tried:
        return opening(plan)
    types = tuple(t for t in plan.types if plan.uniform(t) in history.distortion)
    if history.sizes is None or history.shape is None or len(types) < 2:
        return []
    plan = replace(plan, types=types)
    space = space_of(plan, history, history.sizes)
    probes = probes_of(plan, history, space)
    if any((p.recipe, p.level) not in history.tried for p in probes):
        return probes
    seen = observations(plan, history, space)
    if not seen:
        return []
    model = fit(space, seen)
    return improving(study, plan, history, model) or guards(study, history)


def opening(plan: Plan) -> list[Proposal]:
    """Every type's file; the lowest, the highest and one between are measured."""
    files = [Proposal(plan.uniform(t), f"every matrix in {t}: what mixes are put together from", AUTHOR, "build")
             for t in plan.types]  # fmt: skip
    measured = {plan.types[0], plan.types[len(plan.types) // 2], plan.types[-1]}
    curve = [Proposal(plan.uniform(t), f"every matrix in {t}: a point of the type curve", AUTHOR)
             for t in plan.types if t in measured]  # fmt: skip
    return files + curve


def space_of(plan: Plan, history: History, sizes: Sizes) -> Space:
    """The groups that the evaluations allow, and each type's distortion."""
    budget = plan.evaluations - CURVE - CLOSING
    groups = groups_of(sizes.matrices, bins_for(sizes.matrices, budget))
    return Space(groups, {t: {n: row["output"] for n, row in history.distortion[plan.uniform(t)].items()} for t in plan.types})


def probes_of(plan: Plan, history: History, space: Space) -> list[Proposal]:
    """Each group at the lowest type over the highest."""
    low, high = plan.types[0], plan.types[-1]
    found = []
    for group in space.group_names:
        mix = {name: low if own == group else high for name, own in space.groups.items()}
        found.append(Proposal(plan.mixed(mix), f"{group} in {low}, all else in {high}: how much {group} matters", AUTHOR))
    return found


def mix_of(recipe: Recipe, space: Space) -> Mix | None:
    """A recipe's types by tensor, where all of them are known types."""
    mix = resolved(recipe.tensors, space.groups)
    return mix if len(mix) == len(space.groups) and set(mix.values()) <= set(space.types) else None


def observations(plan: Plan, history: History, space: Space) -> list[Observation]:
    """Every mix of this plan's that was measured on the whole search text."""
    found = []
    for seen in history.seen:
        own = (seen.recipe.importance, seen.recipe.rounding, seen.recipe.drop) == (plan.importance, plan.rounding, ())
        mix = mix_of(seen.recipe, space) if own and seen.level == "search" else None
        if mix is not None:
            kld = seen.metrics["kld_mean"]
            found.append(Observation(mix, kld.value, kld.stderr or 0.0))
    return found


def spent(history: History) -> int:
    """Recipes whose quality was measured, presets that guard the result aside."""
    return len({recipe for recipe, level in history.tried if level == "search"})


def improving(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """The best mix by the model, unless it is known or promises too little; and rivals from the model's uncertainty."""
    left = plan.evaluations - spent(history)
    best = solved(study, plan, history, model)
    if best is None or left <= 0:
        return []
    recipe = plan.mixed(best)
    if (recipe, "search") not in history.tried and worth(study, history, model, recipe, best):
        return [proposal(history, model, recipe, best, "the best mix by the model of the damage")]
    return []


def proposal(history: History, model: Surrogate, recipe: Recipe, mix: Mix, why: str, level: Level = "search") -> Proposal:
    """With what is to be expected of it."""
    value, low, high = model.predict(mix)
    assert history.sizes is not None
    predicted = {"size_bytes": float(history.sizes.total(mix)), "kld_mean": value, "kld_mean_low": low, "kld_mean_high": high}
    return Proposal(recipe, f"{why}: {value:.5f} nats expected", AUTHOR, level, predicted, 0.9)


def solved(study: Study, plan: Plan, history: History, model: Surrogate) -> Mix | None:
    """The best mix under the limits."""
    problem = posed(study, plan, history, model)
    most = model.u_of(target(study, history))
    first = problem.solve(most=most)
    if first is None or history.sizes is None:
        return None
    return floored(problem, history.sizes, first).solve(most=most) or first


def posed(study: Study, plan: Plan, history: History, model: Surrogate) -> Problem:
    """The study's problem with the model's weights."""
    assert history.sizes is not None
    assert history.shape is not None
    probed = {plan.types[0]} if plan.types else set()
    crushed = {t for t in plan.types if bits_per_weight(t) < CRUSHED} - probed
    return problem_of(study, history.sizes, history.shape, plan.types, model.weights(), crushed)


def target(study: Study, history: History) -> float:
    """The KLD on the search text that the limits allow; inf without a limit on quality.

    The report text decides: its KLD is some ratio of the search text's, learnt from what was measured on both. Limits on
    other metrics of quality become one on the KLD, by the measured candidates between which they lie.
    """
    limits = [c for c in study.goal.constraints if c.metric in QUALITY]
    if not limits:
        return float("inf")
    both = [(a.value, b.value) for s in history.seen if s.level == "report"
            and (a := history.kld(s.recipe, "search")) and (b := history.kld(s.recipe, "report"))]  # fmt: skip
    ratio = float(np.median([b / a for a, b in both])) if both else 1.0
    margin = 0.98 if both else 0.95
    found = [c.limit for c in limits if c.metric == "kld_mean"]
    for limit in (c for c in limits if c.metric != "kld_mean"):
        points = [(s.metrics["kld_mean"].value, limit.excess(s.metrics[limit.metric].value)) for s in history.seen]
        held = max((k for k, excess in points if excess <= 0), default=0.0)
        broken = min((k for k, excess in points if excess > 0), default=held)
        found.append((held * broken) ** 0.5 if held and broken > held else min(held, broken))
    return min(found) * margin / ratio


def worth(study: Study, history: History, model: Surrogate, recipe: Recipe, mix: Mix) -> bool:
    """Whether a mix promises more than noise over the best that is known."""
    known = [c for c in ranked(history.candidates, study.goal) if not judge(c, study.goal).violated]
    if not known:
        return True
    best = known[0]
    if study.goal.optimise not in QUALITY:
        assert history.sizes is not None
        have = best.value("size_bytes") or 0.0
        return history.sizes.total(mix) < have * (1 - NOTABLE)
    kld = history.kld(best.recipe, "search")
    if kld is None:
        return True
    gain = kld.value - model.predict(mix)[0]
    return gain > 2 * paired_error(history, best.recipe)


def paired_error(history: History, best: Recipe) -> float:
    """The standard error of a difference to the best: as small as between the two best mixes that were measured."""
    errors = [p[1] for s in history.seen if s.level == "search" and s.recipe != best and s.recipe.complete
              and (p := history.paired(best, s.recipe))]  # fmt: skip
    return min(errors, default=0.0)


def guards(study: Study, history: History) -> list[Proposal]:
    """The stock presets next below the winner's size, with and without importance matrix, on both texts."""
    best = next(iter(ranked(history.candidates, study.goal)), None)
    size = best.value("size_bytes") if best else None
    if size is None or history.sizes is None:
        return []
    near = below(history, size)
    why = "the stock preset nearest in size: nothing that measures worse is delivered"
    found = [Proposal(Recipe(near, importance=matrix), why, AUTHOR, "search") for matrix in (False, True)] if near else []
    return [p for p in found if (p.recipe, p.level) not in history.tried]


def below(history: History, size: float) -> str | None:
    """The largest preset of at most a size, by what presets are known to come to."""
    known = {c.recipe.type: c.value("size_bytes") or 0.0 for c in history.candidates if not c.recipe.tensors}
    assert history.sizes is not None
    fitting = [p for p in PRESETS if known.get(p, preset_bytes(history.sizes, p)) <= size]
    return fitting[-1] if fitting else None


def preset_bytes(sizes: Sizes, preset: str) -> float:
    """A preset's bytes by the published mixes of llama.cpp (llama-quant.cpp), to a few per cent."""
    return sizes.rest + sum(m.count for m in sizes.matrices) * PRESET_BITS[preset] / 8
