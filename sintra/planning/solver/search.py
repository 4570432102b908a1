"""How the solver searches: probes, the best mix of the model, rivals, caches, drops, the presets
that guard the result.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.recipe import Recipe
from sintra.core.types import SCREEN, Candidate, Level, Proposal
from sintra.formats.gguf.sizes import PRESET_BITS, MixSizes
from sintra.planning.solver import pruning
from sintra.planning.solver.mixes import Mix, Plan, mix_of, observations, spent, without
from sintra.planning.solver.problem import QUALITY, Problem, floored, of_quality
from sintra.planning.solver.surrogate import Belief, Space, Surrogate, fit
from sintra.planning.solver.transfer import belief
from sintra.planning.state import History

if TYPE_CHECKING:
    from sintra.planning.solver.surrogate import Array

NOTABLE, RIVALS, GUARDS, NEAR = 0.003, 3, 2, 0.2


def opened(study: Study, history: History) -> tuple[Plan, Surrogate | None, list[Proposal]]:
    """The plan with the types that could be made; the fitted model, None while nothing is measured;
    and what has to be measured before it can be trusted: the files and the type curve first, then
    the probes, unless similar models' are known.
    """
    plan = Plan.of(study)
    if not history.tried:
        return plan, None, plan.files() + plan.curve()
    plan = plan.made(history)
    if history.sizes is None or len(plan.types) < 2:
        why = "mixes can't be made of this model (see what failed above): a stock preset"
        return plan, None, [Proposal(Recipe(t), why, plan.author) for t in PRESET_BITS]
    space = plan.space(history, history.sizes)
    seen = observations(plan, history, space)
    before = believed(plan, history, space)
    if seen and before:
        return plan, fit(space, seen, belief=before), []
    probes = probes_of(plan, space, plan.probes(space, history.sizes))
    left = probes if any((p.recipe, p.level) not in history.tried for p in probes) else []
    return plan, fit(space, seen) if seen else None, left


def believed(plan: Plan, history: History, space: Space) -> Belief | None:
    """What similar models' studies say of this one; None where there are none, or where a
    measurement has proved them wrong: a mix's KLD outside the interval in which it was expected.
    """
    assert history.sizes is not None
    for c in history.candidates:
        kld, p = history.kld(c.recipe, "search"), c.predicted
        if (
            kld
            and c.author == plan.author
            and "kld_mean" in p
            and not p["kld_mean_low"] <= kld.value <= p["kld_mean_high"]
        ):
            return None
    return belief(history.lessons, space.groups, history.sizes.matrices, plan.types)


def probes_of(plan: Plan, space: Space, groups: list[str]) -> list[Proposal]:
    """Each group at the lowest type over the highest."""
    low, high = plan.types[0], plan.types[-1]
    found = []
    for group in groups:
        mix = {name: low if own == group else high for name, own in space.groups.items()}
        found.append(
            Proposal(
                plan.mixed(mix),
                f"{group} in {low}, all else in {high}: how much {group} matters",
                plan.author,
            )
        )
    return found


def improving(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """The best mix by the model; when that is known or promises too little, what might be better
    still.
    """
    left = plan.evaluations - spent(history) - GUARDS
    if left < 1:
        return []
    if any(p.level == "screen" for p in history.last):
        return promoted(study, plan, history, model)
    best = solved(study, plan, history, model)
    if (
        best
        and (plan.mixed(best), "search") not in history.tried
        and worth(study, history, model, best)
    ):
        return [proposal(plan, history, model, best, "the best mix by the model of the damage")]
    if more := caches(study, plan, history, model, best) or drops(
        study, plan, history, space_of(plan, history)
    ):
        return more
    return rivals(study, plan, history, model) if left >= 1 + (RIVALS + 1) / SCREEN else []


def space_of(plan: Plan, history: History) -> Space:
    """The plan's groups."""
    assert history.sizes is not None
    return plan.space(history, history.sizes)


def caches(
    study: Study, plan: Plan, history: History, model: Surrogate, best: Mix | None
) -> list[Proposal]:
    """With smaller KV caches, whose savings go into the weights: where the device's memory is what
    keeps the best mix small.

    What such a cache does to the quality is not foreseen but measured.
    """
    found = []
    for kv in study.planner.kv:
        mix = solved(study, plan, history, model, kv=kv) if kv != "f16" else None
        if mix is None or mix == best:
            continue
        value = model.predict(mix)[0]
        recipe = replace(plan.mixed(mix), kv=kv)
        why = f"memory binds: a {kv} KV cache leaves room for {value:.5f} nats by the weights alone"
        found.append(Proposal(recipe, why, plan.author))
    return [p for p in found if (p.recipe, p.level) not in history.tried]


def drops(study: Study, plan: Plan, history: History, space: Space) -> list[Proposal]:
    """Without blocks, where quantization alone can't hold the limits: the best mix so far on the
    blocks that are left.
    """
    order = ranked(history.candidates, study.goal)
    lowest = next(
        (mix for c in order if not c.recipe.cut and (mix := mix_of(c.recipe, space))), None
    )
    if lowest is None:
        return []
    found = []
    for drop, silent in pruning.cuts(study, history):
        recipe = replace(plan.mixed(without(lowest, drop, silent)), drop=drop, no_attention=silent)
        found.append(
            Proposal(
                recipe,
                f"quantization alone can't hold the limits: without {recipe.left_out}",
                plan.author,
            )
        )
    return found


def rivals(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """Mixes that are best in other worlds which the measurements allow (Thompson's sampling), and
    the incumbent.
    """
    lead = incumbent(study, history)
    if lead is None:
        return []
    found: dict[Recipe, Proposal] = {}
    for mix in drawn(study, plan, history, model):
        found[plan.mixed(mix)] = proposal(
            plan, history, model, mix, "the best mix of a world drawn from the model", "screen"
        )
        if len(found) == RIVALS:
            break
    again = Proposal(lead, "the best so far, to compare with", plan.author, "screen")
    return [again, *found.values()] if found else []


def drawn(study: Study, plan: Plan, history: History, model: Surrogate) -> Iterator[Mix]:
    """Mixes that nobody has tried, each the best in a world drawn from the model's uncertainty;
    deterministic.
    """
    import numpy as np

    rng = np.random.default_rng([study.planner.seed, len(history.tried)])
    for _ in range(3 * RIVALS):
        mix = solved(study, plan, history, model, model.draw(rng))
        if mix and not {(plan.mixed(mix), level) for level in ("screen", "search")} & history.tried:
            yield mix


def incumbent(study: Study, history: History) -> Recipe | None:
    """The best mix so far that holds the limits."""
    order = [
        c
        for c in ranked(history.candidates, study.goal)
        if c.recipe.complete and not judge(c, study.goal).violated
    ]
    return order[0].recipe if order else None


def promoted(study: Study, plan: Plan, history: History, model: Surrogate) -> list[Proposal]:
    """Of the last round's rivals the one that looks better than the incumbent, to be measured on
    all of the text.
    """
    lead = incumbent(study, history)
    whole = history.kld(lead, "search") if lead else None
    part = history.kld(lead, "screen") if lead else None
    if lead is None or whole is None or part is None or history.sizes is None:
        return []
    space = plan.space(history, history.sizes)
    good = []
    for rival in (p.recipe for p in history.last if p.recipe != lead):
        seen, mix = history.kld(rival, "screen"), mix_of(rival, space)
        if seen is None or mix is None:
            continue
        expected, size = seen.value * whole.value / part.value, history.sizes.total(mix)
        if study.goal.optimise in QUALITY:
            good += [(expected, mix)] if expected < whole.value else []
        else:
            good += [(float(size), mix)] if expected <= target(study, history) else []
    if not good:
        return []
    return [
        proposal(
            plan,
            history,
            model,
            min(good, key=lambda g: g[0])[1],
            "a rival that led on a part of the text",
        )
    ]


def proposal(
    plan: Plan, history: History, model: Surrogate, mix: Mix, why: str, level: Level = "search"
) -> Proposal:
    """With what is to be expected of it."""
    predicted, text = foreseen(history, model, mix)
    return Proposal(plan.mixed(mix), f"{why}: {text}", plan.author, level, predicted, 0.9)


def foreseen(history: History, model: Surrogate, mix: Mix) -> tuple[dict[str, float], str]:
    """Size and KLD of a mix with its 90 % interval, as numbers and in words."""
    assert history.sizes is not None
    (value, low, high), size = model.predict(mix), history.sizes.total(mix)
    predicted = {
        "size_bytes": float(size),
        "kld_mean": value,
        "kld_mean_low": low,
        "kld_mean_high": high,
    }
    return predicted, f"{size / 1e6:.2f} MB, {value:.5f} nats expected ({low:.5f} to {high:.5f})"


def solved(
    study: Study,
    plan: Plan,
    history: History,
    model: Surrogate,
    world: Array | None = None,
    kv: str = "f16",
    narrowed: Callable[[Problem], Problem] = lambda p: p,
    left: float = 1.0,
) -> Mix | None:
    """The best mix under the limits, by the most probable parameters or in a world with others.
    narrowed: what else is to hold, as a change of the problem; left: what will be left of the KLD
    after what is done to the mix later.
    """
    problem = narrowed(plan.problem(study, history, model.weights(world), kv))
    most = model.u_of(target(study, history) / left, world)
    first = problem.solve(most=most)
    if first is None:  # not all limits can be held: the least damage within those on bytes and time
        problem = replace(problem, objective="damage")
        first = problem.solve()
    if first is None or history.sizes is None:
        return None
    return floored(problem, history.sizes, first).solve(most=most) or first


def target(study: Study, history: History) -> float:
    """The KLD on the search text that the limits allow; inf without a limit on quality.

    The report text decides: its KLD is some ratio of the search text's, learnt from what was
    measured on both. Limits on other metrics of quality become one on the KLD, by the measured
    candidates between which they lie.
    """
    limits = [c for c in study.goal.constraints if of_quality(c.metric)]
    if not limits:
        return float("inf")
    both = [
        b.value / a.value
        for s in history.seen
        if s.level == "report"
        and (a := history.kld(s.recipe, "search"))
        and (b := history.kld(s.recipe, "report"))
    ]
    ratio = statistics.median(both) if both else 1.0
    margin = 0.98 if both else 0.95
    found = [c.limit for c in limits if c.metric == "kld_mean"]
    for limit in (c for c in limits if c.metric != "kld_mean"):
        points = [
            (s.metrics["kld_mean"].value, limit.excess(s.metrics[limit.metric].value))
            for s in history.seen
            if limit.metric in s.metrics
        ]
        if not points and limit.metric not in QUALITY:
            continue  # tasks of lm-eval that keep no score of their own
        found.append(crossing(points))
    return min(found, default=float("inf")) * margin / ratio


def crossing(points: list[tuple[float, float]]) -> float:
    """The KLD at which a limit is just held: (KLD, excess) of measured mixes, between the worst
    that holds it and the best that breaks it, linear in the KLD's logarithm.
    """
    held = max((p for p in points if p[1] <= 0 and p[0] > 0), default=None)
    broken = min((p for p in points if p[1] > 0), default=None)
    if held is None or broken is None or broken[0] <= held[0]:
        return min((p[0] for p in (held, broken) if p is not None), default=0.0)
    share: float = -held[1] / (broken[1] - held[1])
    return float(held[0] * (broken[0] / held[0]) ** share)


def worth(study: Study, history: History, model: Surrogate, mix: Mix) -> bool:
    """Whether a mix promises more than noise over the best that is known: twice the paired standard
    error, or 0.3 % of what is to be made small.
    """
    known = [c for c in ranked(history.candidates, study.goal) if not judge(c, study.goal).violated]
    if not known:
        return True
    best = known[0]
    if study.goal.optimise not in QUALITY:
        assert history.sizes is not None
        return history.sizes.total(mix) < (best.value("size_bytes") or 0.0) * (1 - NOTABLE)
    kld = history.kld(best.recipe, "search")
    return kld is None or kld.value - model.predict(mix)[0] > 2 * paired_error(history, best.recipe)


def paired_error(history: History, best: Recipe) -> float:
    """The standard error of a difference to the best: the smallest one to any other mix."""
    errors = [
        p[1]
        for s in history.seen
        if s.level == "search"
        and s.recipe != best
        and s.recipe.complete
        and (p := history.paired(best, s.recipe))
    ]
    return min(errors, default=0.0)


def guards(study: Study, plan: Plan, history: History) -> list[Proposal]:
    """The stock presets near the best's size, made; then the largest of at most its size, measured
    with and without importance matrix.
    """
    best = next(iter(ranked(history.candidates, study.goal)), None)
    if best is None or history.sizes is None or not best.recipe.complete:
        return []
    room = most_bytes(study, best)
    near = [Recipe(p) for p, size in guessed(history.sizes).items() if abs(size / room - 1) < NEAR]
    if any(r not in history.bytes_of and r not in history.failed for r in near):
        return [Proposal(r, "how large is this stock preset?", plan.author, "build") for r in near]
    fitting = [r for r in near if history.bytes_of.get(r, room + 1) <= room]
    if not fitting:
        return []
    largest = max(fitting, key=lambda r: history.bytes_of[r])
    why = "the largest stock preset that fits: nothing that measures worse is delivered"
    return [
        Proposal(replace(largest, importance=matrix), why, plan.author) for matrix in (False, True)
    ]


def most_bytes(study: Study, best: Candidate) -> float:
    """Bytes that a preset may have to compete: the best's, or the limit on them where that is all
    that counts.
    """
    limits = [c.limit for c in study.goal.constraints if c.metric == "size_bytes"]
    size = best.value("size_bytes") or 0.0
    return max(size, *limits) if limits and study.goal.optimise in QUALITY else size


def guessed(sizes: MixSizes) -> dict[str, float]:
    """The presets' sizes by published bits a weight, which embeddings of small models change by a
    tenth or two.
    """
    count = sum(m.count for m in sizes.matrices)
    return {preset: sizes.rest + count * bits / 8 for preset, bits in PRESET_BITS.items()}
