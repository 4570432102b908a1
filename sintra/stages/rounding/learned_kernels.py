"""The inner loops of learned rounding, compiled by numba: one pass over the weights each.

Codes are (blocks, weights of a block), what groups share is (blocks, groups). A weight is `scale *
levels[code] + offset`, its code `first + position`, rounded and kept among the levels. Gradients
pass through the rounding as if a level were linear in its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sintra.stages.rounding.kernels import ONE, ZERO, compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Codes = NDArray[np.uint8]


@compiled
def dequantize(
    first: Codes, position: Floats, levels: Floats, scale: Floats, offset: Floats, weights: Floats
) -> None:
    """Write the weights, (blocks, weights of a block)."""
    blocks, groups = scale.shape
    group, last = first.shape[1] // groups, np.float32(len(levels) - 1)
    for b in range(blocks):
        for g in range(groups):
            s, o = scale[b, g], offset[b, g]
            for j in range(g * group, (g + 1) * group):
                code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                weights[b, j] = s * levels[np.int32(code)] + o


@compiled
def scale_gradients(
    first: Codes,
    position: Floats,
    levels: Floats,
    gradient: Floats,
    by_scale: Floats,
    by_offset: Floats,
) -> None:
    """Write the gradients of scales and offsets, (blocks, groups), from that of the weights."""
    blocks, groups = by_scale.shape
    group, last = first.shape[1] // groups, np.float32(len(levels) - 1)
    for b in range(blocks):
        for g in range(groups):
            of_scale, of_offset = ZERO, ZERO
            for j in range(g * group, (g + 1) * group):
                code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                of_scale += gradient[b, j] * levels[np.int32(code)]
                of_offset += gradient[b, j]
            by_scale[b, g], by_offset[b, g] = of_scale, of_offset


@compiled
def move_codes(
    first: Codes,
    position: Floats,
    slopes: Floats,
    scale: Floats,
    gradient: Floats,
    mean: Floats,
    square: Floats,
    decay_mean: np.float32,
    decay_square: np.float32,
    size: np.float32,
    root: np.float32,
) -> None:
    """Take a step of Adam (arXiv 1412.6980) with the positions, from the gradient of the weights.

    slopes: the gradient of the levels at each code; mean, square: Adam's moments, as position;
    size: of the step, over the mean's correction of bias; root: of the square's.
    """
    blocks, groups = scale.shape
    group, last = first.shape[1] // groups, np.float32(len(slopes) - 1)
    tiny = np.float32(1e-12)
    for b in range(blocks):
        for g in range(groups):
            s = scale[b, g]
            for j in range(g * group, (g + 1) * group):
                code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                slope = gradient[b, j] * s * slopes[np.int32(code)]
                m = decay_mean * mean[b, j] + (ONE - decay_mean) * slope
                v = decay_square * square[b, j] + (ONE - decay_square) * slope * slope
                mean[b, j], square[b, j] = m, v
                position[b, j] -= size * m / (np.sqrt(v) / root + tiny)
