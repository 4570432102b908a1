"""The inner loops of learned rounding, compiled by numba: one pass over the weights each.

Codes are (blocks, weights of a block), what groups share is (blocks, groups). A weight is `scale *
levels[code] + offset`, its code `first + position`, rounded and kept among the levels. Gradients
pass through the rounding as if a level were linear in its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sintra.stages.rounding.tiles import ONE, ZERO, compiled, summing

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
    lowest, even = levels[0], True  # whether all levels are 1 apart
    for k in range(len(levels) - 1):
        even = even and levels[k + 1] - levels[k] == ONE
    for b in range(blocks):
        for g in range(groups):
            s, o = scale[b, g], offset[b, g]
            if even:
                for j in range(g * group, (g + 1) * group):
                    code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                    weights[b, j] = s * (lowest + code) + o
            else:
                for j in range(g * group, (g + 1) * group):
                    code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                    weights[b, j] = s * levels[np.int32(code)] + o


@summing
def scale_gradients(
    weights: Floats,
    scale: Floats,
    offset: Floats,
    gradient: Floats,
    by_scale: Floats,
    by_offset: Floats,
) -> None:
    """Write the gradients of scales and offsets, (blocks, groups), from that of the weights.

    A level is what a weight is without offset and scale; where the scale is 0 its gradient is 0.
    """
    blocks, groups = by_scale.shape
    group = weights.shape[1] // groups
    for b in range(blocks):
        for g in range(groups):
            products, total = ZERO, ZERO
            for j in range(g * group, (g + 1) * group):
                products += gradient[b, j] * weights[b, j]
                total += gradient[b, j]
            s = scale[b, g]
            by_scale[b, g] = ZERO if s == ZERO else (products - offset[b, g] * total) / s
            by_offset[b, g] = total


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
    even, tiny = slopes.min() == slopes.max(), np.float32(1e-12)
    for b in range(blocks):
        for g in range(groups):
            s = scale[b, g] * (slopes[0] if even else ONE)
            for j in range(g * group, (g + 1) * group):
                slope = gradient[b, j] * s
                if not even:
                    code = min(max(np.rint(np.float32(first[b, j]) + position[b, j]), ZERO), last)
                    slope *= slopes[np.int32(code)]
                m = decay_mean * mean[b, j] + (ONE - decay_mean) * slope
                v = decay_square * square[b, j] + (ONE - decay_square) * slope * slope
                mean[b, j], square[b, j] = m, v
                position[b, j] -= size * m / (np.sqrt(v) / root + tiny)
