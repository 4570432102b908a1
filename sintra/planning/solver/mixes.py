"""What planners of mixes share: their options, the recipes that types make, what was measured of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.recipe import FILE_TYPES, Recipe
from sintra.core.types import SCREEN, Proposal
from sintra.formats.gguf.attention import is_attention
from sintra.formats.gguf.sizes import MixSizes, bits_per_weight, mix_patterns, resolve_types
from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.planning.solver.groups import bins_for, groups_of, weight
from sintra.planning.solver.problem import Problem, problem_of
from sintra.planning.solver.surrogate import Observation, Space
from sintra.planning.state import History

CURVE, CLOSING = 3, 6
CRUSHED = 4.0
ROUNDINGS = ("nearest", "compensated")

Mix = dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A study's options, its types from low to high, and the recipes that they make."""

    author: str
    types: tuple[str, ...]
    evaluations: int
    importance: bool
    rounding: str

    @staticmethod
    def of(study: Study) -> Plan:
        """Checked. Raises UserError."""
        import gguf

        options = study.planner
        for name in options.types:
            if name not in gguf.GGMLQuantizationType.__members__:
                raise UserError(
                    f"planner.types: {name!r} is no tensor type of ggml, such as Q4_K or IQ4_XS"
                )
        types = tuple(sorted(set(options.types), key=bits_per_weight))
        if len(types) < 2:
            raise UserError(
                f"planner={options.name} needs two planner.types at least to choose from"
            )
        if options.rounding not in ROUNDINGS:
            raise UserError(
                f"planner.rounding={options.rounding} isn't known: use {' or '.join(ROUNDINGS)}"
            )
        return Plan(options.name, types, options.evaluations, True, options.rounding)

    def uniform(self, kind: str) -> Recipe:
        """Every matrix in one type."""
        everything = ((".*", kind),)
        name = FILE_TYPES.get(kind, kind)
        return Recipe(name, self.importance, (), everything, self.rounding)  # type: ignore[arg-type]

    def mixed(self, mix: Mapping[str, str]) -> Recipe:
        """A mix as a recipe, with the file type that its commonest tensor type goes with."""
        pairs = mix_patterns(mix)
        return replace(self.uniform(pairs[-1][1]), tensors=pairs)

    def files(self) -> list[Proposal]:
        """Every type's file, to put mixes together from."""
        why = "every matrix in {}: what mixes are put together from"
        return [Proposal(self.uniform(t), why.format(t), self.author, "build") for t in self.types]

    def curve(self) -> list[Proposal]:
        """The lowest, the highest and a middle type, measured."""
        measured = {self.types[0], self.types[len(self.types) // 2], self.types[-1]}
        return [
            Proposal(
                self.uniform(t), f"every matrix in {t}: a point of the type curve", self.author
            )
            for t in self.types
            if t in measured
        ]

    def made(self, history: History) -> Plan:
        """The same with the types whose files could be made."""
        return replace(
            self, types=tuple(t for t in self.types if self.uniform(t) in history.distortion)
        )

    def space(self, history: History, sizes: MixSizes) -> Space:
        """As many groups as the evaluations allow, and each type's distortion, weighted by what is
        known beforehand.
        """
        groups = groups_of(
            sizes.matrices, bins_for(sizes.matrices, self.evaluations - CURVE - CLOSING)
        )
        tied = "output.weight" not in sizes.by_name
        prior = {m.name: weight(m, tied) for m in sizes.matrices}
        found = {t: history.distortion[self.uniform(t)] for t in self.types}
        shares = {
            t: {n: prior[n] * row["output"] for n, row in rows.items()} for t, rows in found.items()
        }
        return Space(groups, shares)

    def probes(self, space: Space, sizes: MixSizes) -> list[str]:
        """The groups that are probed: all that the evaluations allow, the largest first."""
        weight = dict.fromkeys(space.group_names, 0)
        for m in sizes.matrices:
            weight[space.groups[m.name]] += m.count
        room = max(0, self.evaluations - CURVE - CLOSING)
        return sorted(sorted(weight, key=lambda g: -weight[g])[:room])

    def problem(
        self,
        study: Study,
        history: History,
        weights: Mapping[str, Mapping[str, float]],
        kv: str = "f16",
    ) -> Problem:
        """The study's limits with these weights of damage and a type of the KV cache."""
        assert history.sizes is not None
        assert history.shape is not None
        # The lowest type is probed on every group; between it and CRUSHED bits nothing is known of
        # embedding and output.
        crushed = {t for t in self.types[1:] if bits_per_weight(t) < CRUSHED}
        return problem_of(study, history.sizes, history.shape, self.types, weights, crushed, kv)


def without(mix: Mix, drop: tuple[int, ...], silent: tuple[int, ...] = ()) -> Mix:
    """What is left of a mix without whole blocks and without the attention of others, by the names
    that the rest has then.
    """
    left = {name: kind for name, kind in mix.items() if not is_attention(name, silent)}
    return {new: kind for name, kind in left.items() if (new := renumber_tensor(name, list(drop)))}


def mix_of(recipe: Recipe, space: Space) -> Mix | None:
    """A recipe's types by tensor, where all of them are known types."""
    mix = resolve_types(recipe.tensors, space.groups)
    return mix if len(mix) == len(space.groups) and set(mix.values()) <= set(space.types) else None


def observations(
    plan: Plan, history: History, space: Space, level: str = "search"
) -> list[Observation]:
    """Every mix of this plan's that was measured on a text."""
    found = []
    for seen in history.seen:
        recipe = seen.recipe
        own = (recipe.importance, recipe.rounding, recipe.cut, recipe.kv) == (
            plan.importance,
            plan.rounding,
            False,
            "f16",
        )
        mix = mix_of(recipe, space) if own and not recipe.finished and seen.level == level else None
        if mix is not None:
            kld = seen.metrics["kld_mean"]
            found.append(Observation(mix, kld.value, kld.stderr or 0.0))
    return found


def spent(history: History) -> float:
    """Measurements on the search text but for a language model's; one on a part of it counts as
    that part.
    """
    levels = [level for _, level in history.tried]
    return levels.count("search") + levels.count("screen") / SCREEN - history.advice
