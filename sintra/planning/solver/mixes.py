"""What planners of mixes share: their settings, the recipes that types make, and what was measured
of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sintra.config.study import Study
from sintra.core.errors import UserError
from sintra.core.recipe import FILE_TYPES, Recipe, Rounding
from sintra.core.types import SCREEN, Proposal
from sintra.formats.gguf.attention import is_attention
from sintra.formats.gguf.sizes import (
    MixSizes,
    bits_per_weight,
    mix_patterns,
    resolve_types,
    written_type,
)
from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.hardware.estimate.estimate import Shape
from sintra.planning.solver.gradients import (
    gradient_prior,
    group_ratios,
    has_gradients,
    outside_groups,
    weights_by_gradient,
)
from sintra.planning.solver.groups import class_weight, depth_bins, group_tensors
from sintra.planning.solver.problem import Problem, build_problem
from sintra.planning.solver.surrogate import Observation, Prior, Space
from sintra.planning.state import ModelFacts, PlannerState, StudyResults

CURVE_EVALUATIONS = 3  # uniform mixes that are measured first
CLOSING_EVALUATIONS = 6  # kept free for the search after the probes
SAME_FILE = 0.75  # share of the weights in the same type from which two types are one candidate
CRUSHED_BITS = 4.0  # bits per weight below which embedding and output are not put unmeasured
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "compensated")

Mix = dict[str, str]  # tensor -> type


@dataclass(frozen=True)
class MixSettings:
    """The options of a study whose planner makes mixes, and the recipes that follow from them."""

    author: str  # of the proposals: the planner's name
    types: tuple[str, ...]  # tensor types to choose from, from low to high bits per weight
    evaluations: int  # the most mixes that are measured on the search text
    importance: bool  # whether the importance matrix is used
    rounding: Rounding  # how integers are chosen

    @staticmethod
    def of(study: Study, columns: Mapping[int, int] | None = None) -> MixSettings:
        """Read and check the planner's options. Raises UserError.

        columns: row length -> weights of the model's matrices, where it is known: types that come
        out nearly alike are left out.
        """
        import gguf  # not on the no-op path

        options = study.planner
        for name in options.types:
            if name not in gguf.GGMLQuantizationType.__members__:
                raise UserError(
                    f"planner.types: {name!r} is not a tensor type of ggml, such as Q4_K or IQ4_XS"
                )
        types = distinct_types(sorted(set(options.types), key=bits_per_weight), columns or {})
        if len(types) < 2:
            raise UserError(
                f"planner={options.name} needs two planner.types at least to choose from"
            )
        if options.rounding not in ROUNDINGS:
            raise UserError(
                f"planner.rounding={options.rounding} isn't known: use {' or '.join(ROUNDINGS)}"
            )
        return MixSettings(options.name, types, options.evaluations, True, options.rounding)

    def uniform_recipe(self, kind: str) -> Recipe:
        """Return the recipe with every matrix in one type."""
        return Recipe(
            FILE_TYPES.get(kind, kind), self.importance, (), ((".*", kind),), self.rounding
        )

    def mix_recipe(self, mix: Mapping[str, str]) -> Recipe:
        """Return a mix as a recipe, with the file type that its commonest tensor type goes with."""
        pairs = mix_patterns(mix)
        return replace(self.uniform_recipe(pairs[-1][1]), tensors=pairs)

    def propose_files(self) -> list[Proposal]:
        """Propose every type's uniform file: mixes are put together from these."""
        why = "every matrix in {}: what mixes are put together from"
        return [
            Proposal(self.uniform_recipe(t), why.format(t), self.author, "build")
            for t in self.types
        ]

    def propose_type_curve(self) -> list[Proposal]:
        """Propose to measure the lowest, a middle and the highest type."""
        measured = {self.types[0], self.middle_type, self.types[-1]}
        why = "every matrix in {}: a point of the type curve"
        return [
            Proposal(self.uniform_recipe(t), why.format(t), self.author)
            for t in self.types
            if t in measured
        ]

    def with_built_types(self, model: ModelFacts) -> MixSettings:
        """Return the settings with only the types whose uniform files could be made."""
        built = tuple(t for t in self.types if self.uniform_recipe(t) in model.distortion)
        return replace(self, types=built)

    @property
    def max_probes(self) -> int:
        """Return how many groups the evaluations allow to probe; negative where none are left."""
        return self.evaluations - CURVE_EVALUATIONS - CLOSING_EVALUATIONS

    def space(self, model: ModelFacts, sizes: MixSizes) -> Space:
        """Return as many groups as the evaluations allow, and each type's distortion.

        The distortion is weighted by the class of the tensor (class_weight), inside a group by the
        backward pass where there was one.
        """
        groups = group_tensors(sizes.matrices, depth_bins(sizes.matrices, self.max_probes))
        errors = {t: model.distortion[self.uniform_recipe(t)] for t in self.types}
        weight = class_weights(sizes)
        if ratios := self.gradient_ratios(model, sizes, groups):
            weight = weights_by_gradient(model, groups, ratios)
        return Space(
            groups,
            {
                t: {name: weight[name] * row["output"] for name, row in rows.items()}
                for t, rows in errors.items()
            },
        )

    @property
    def middle_type(self) -> str:
        """Return the type in the middle of those that are chosen from."""
        return self.types[len(self.types) // 2]

    def gradient_ratios(
        self, model: ModelFacts, sizes: MixSizes, groups: Mapping[str, str]
    ) -> dict[str, float]:
        """Return group -> nats by the backward pass for each unit of its weighted distortion.

        groups: tensor -> group. Empty where there was no such pass over every matrix.
        """
        if not has_gradients(model, sizes):
            return {}
        errors = model.distortion[self.uniform_recipe(self.middle_type)]
        return group_ratios(model, class_weights(sizes), groups, errors)

    def prior_by_gradient(
        self, model: ModelFacts, space: Space, sizes: MixSizes
    ) -> tuple[Prior, list[str]] | None:
        """Return the prior by the backward pass and the groups that are probed all the same.

        None where there was no such pass.
        """
        ratios = self.gradient_ratios(model, sizes, space.groups)
        if not ratios:
            return None
        outside = outside_groups(tuple(sizes.matrices), space.groups)
        return gradient_prior(space, ratios, outside), outside

    def probed_groups(self, space: Space, sizes: MixSizes) -> list[str]:
        """Return the groups that are probed: the largest, as many as the evaluations allow."""
        weights = dict.fromkeys(space.group_names, 0)
        for m in sizes.matrices:
            weights[space.groups[m.name]] += m.count
        largest = sorted(weights, key=lambda group: -weights[group])
        return sorted(largest[: max(0, self.max_probes)])

    def problem(
        self,
        study: Study,
        sizes: MixSizes,
        shape: Shape,
        weights: Mapping[str, Mapping[str, float]],
        kv: str = "f16",
    ) -> Problem:
        """Return the study's problem with these weights of the loss and a type of the KV cache.

        The lowest type is probed on every group; of the types between it and CRUSHED_BITS nothing
        is known on embedding and output, so they are barred there.
        """
        crushed = {t for t in self.types[1:] if bits_per_weight(t) < CRUSHED_BITS}
        return build_problem(study, sizes, shape, self.types, weights, crushed, kv)


def class_weights(sizes: MixSizes) -> dict[str, float]:
    """Return tensor -> what its distortion is weighted by before anything is measured."""
    tied = "output.weight" not in sizes.by_name
    return {m.name: class_weight(m, tied) for m in sizes.matrices}


def distinct_types(types: Sequence[str], columns: Mapping[int, int]) -> tuple[str, ...]:
    """Return the types without those that llama.cpp writes mostly as it writes a higher one.

    Rows that aren't whole blocks fall back: of 576 columns Q2_K and Q3_K are both Q4_0, IQ2_S and
    IQ3_S both IQ4_NL. types: by bits per weight; columns: row length -> weights.
    """
    most, kept = SAME_FILE * max(1, sum(columns.values())), list[str]()
    for kind in reversed(types):
        if all(same_weights(kind, other, columns) < most for other in kept):
            kept.append(kind)
    return tuple(reversed(kept))


def same_weights(one: str, other: str, columns: Mapping[int, int]) -> int:
    """Return how many weights llama.cpp writes alike in both types; columns: as above."""
    return sum(
        count
        for length, count in columns.items()
        if written_type(one, length) == written_type(other, length)
    )


def cut_mix(mix: Mix, dropped: tuple[int, ...], no_attention: tuple[int, ...] = ()) -> Mix:
    """Return a mix without whole blocks and without the attention of others.

    The tensors have the names that they have in the cut file.
    """
    rest = {name: kind for name, kind in mix.items() if not is_attention(name, no_attention)}
    return {
        new: kind for name, kind in rest.items() if (new := renumber_tensor(name, list(dropped)))
    }


def mix_of(recipe: Recipe, space: Space) -> Mix | None:
    """Return a recipe's types by tensor, or None where some type isn't in the space."""
    mix = resolve_types(recipe.tensors, space.groups)
    return mix if len(mix) == len(space.groups) and set(mix.values()) <= set(space.types) else None


def observe_mixes(
    settings: MixSettings, results: StudyResults, space: Space, level: str = "search"
) -> list[Observation]:
    """Return every mix of these settings that was measured on a text.

    What was cut, finished or run with another KV cache is left out.
    """
    plain = (settings.importance, settings.rounding, False, "f16")
    observations = []
    for result in results.text_results:
        recipe = result.recipe
        if result.level != level or recipe.finished:
            continue
        if (recipe.importance, recipe.rounding, recipe.cut, recipe.kv) != plain:
            continue
        if mix := mix_of(recipe, space):
            kld = result.metrics["kld_mean"]
            observations.append(Observation(mix, kld.value, kld.stderr or 0.0))
    return observations


def evaluations_spent(state: PlannerState) -> float:
    """Return how many measurements on the search text were made, without a language model's.

    One on a part of the text counts as that part.
    """
    levels = [level for _, level in state.results.attempts]
    return levels.count("search") + levels.count("screen") / SCREEN - state.adviser.evaluations
