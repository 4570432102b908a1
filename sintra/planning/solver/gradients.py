"""Sensitivities from one backward pass (sintra.stages.sensitivity), in the place of probes.

The pass says how many nats each unit of a tensor's distortion costs. Its ratios between tensors of
a group are taken as they are; those between groups are the prior's center, which measured mixes
correct.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sintra.formats.gguf.sizes import Matrix, MixSizes
from sintra.planning.solver.surrogate import BEND_SPREAD, TYPE_SPREAD, Prior, Space
from sintra.planning.state import ModelFacts, TensorDistortion

# Standard deviations of the logarithm of measured over predicted sensitivities (docs/benchmarks.md,
# "Sensitivities by gradient"): groups inside the blocks, and embedding and output.
INSIDE_SPREAD, OUTSIDE_SPREAD = 0.4, 0.8


def has_gradients(model: ModelFacts, sizes: MixSizes) -> bool:
    """Return whether the pass measured every matrix."""
    found = model.sensitivity
    return bool(found) and all(found.get(m.name, 0.0) > 0 for m in sizes.matrices)


def group_ratios(
    model: ModelFacts,
    weight: Mapping[str, float],
    groups: Mapping[str, str],
    errors: Mapping[str, TensorDistortion],
) -> dict[str, float]:
    """Return group -> nats by the pass for each unit of its weighted distortion.

    weight: tensor -> what its distortion is weighted by otherwise; errors: of a uniform file.
    """
    nats, units = dict.fromkeys(groups.values(), 0.0), dict.fromkeys(groups.values(), 0.0)
    for name, group in groups.items():
        error = errors[name]["output"]
        nats[group] += model.sensitivity[name] * error
        units[group] += weight[name] * error
    return {group: nats[group] / max(units[group], 1e-30) for group in nats}


def weights_by_gradient(
    model: ModelFacts, groups: Mapping[str, str], ratios: Mapping[str, float]
) -> dict[str, float]:
    """Return what each tensor's distortion is weighted by: spread inside its group by the pass.

    ratios: of `group_ratios`. A group's weighted distortion in the file of its errors stays what it
    is with its weights, so that what a study teaches of groups doesn't depend on how tensors were
    weighted.
    """
    return {
        name: model.sensitivity[name] / max(ratios[group], 1e-30) for name, group in groups.items()
    }


def outside_groups(matrices: tuple[Matrix, ...], groups: Mapping[str, str]) -> list[str]:
    """Return the groups outside the blocks, which are probed all the same, sorted."""
    return sorted({groups[m.name] for m in matrices if m.block is None})


def gradient_prior(space: Space, ratios: Mapping[str, float], outside: list[str]) -> Prior:
    """Return the prior by the pass. ratios: of `group_ratios`."""
    groups = {
        group: (math.log(max(ratio, 1e-30)), OUTSIDE_SPREAD if group in outside else INSIDE_SPREAD)
        for group, ratio in ratios.items()
    }
    return Prior(groups, dict.fromkeys(space.types, (0.0, TYPE_SPREAD)), (0.0, BEND_SPREAD))
