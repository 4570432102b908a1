"""Bound what a GPU's fitted numbers say of layers smaller than any that was fitted.

A layer's overhead on a GPU is two things that published points can't tell apart: starting its
kernels, which costs the same for a layer of any size, and work beside reading, which shrinks with
the layer. Between the layers that were fitted the sum is taken as constant. Below them the start is
taken to be what the fastest card of the fit needs, and the rest to shrink with the layer's width
(the geometric mean of not at all and with its weights). The interval reaches to the constant.

CPUs start no kernels: their overhead is some microseconds, and nothing changes for them.
"""

from __future__ import annotations

import math

# Weights of a layer in the smallest model that was fitted (TinyLlama-1.1B, the output counted in),
# and the least overhead of a layer on any card of the fit, seconds (RTX 4090, Vulkan). A test
# compares both.
SMALLEST_LAYER = 47e6
LEAST_OVERHEAD_S = 17e-6
# Matrices of this share of the smallest fitted width leave most of a GPU idle: how fast it reads a
# prompt then isn't known.
LEAST_WIDTH = 0.25


def relative_width(weights_per_layer: float) -> float:
    """Return a layer's width over the smallest that was fitted, at most 1.

    Weights go with the square of the width.
    """
    return min(1.0, math.sqrt(weights_per_layer / SMALLEST_LAYER))


def layer_overhead(fitted_s: float, weights_per_layer: float, backend: str) -> float:
    """Return the seconds that a layer takes beside reading; `fitted_s`: of a layer that was fitted.

    weights_per_layer: weights that a token uses, over the number of layers.
    """
    if backend == "cpu":
        return fitted_s
    starting = min(fitted_s, LEAST_OVERHEAD_S)
    return starting + (fitted_s - starting) * relative_width(weights_per_layer)


def overhead_range(fitted_s: float, weights_per_layer: float, backend: str) -> float:
    """Return what the bound adds to the half-width of the interval of the overhead's logarithm.

    So much that the interval reaches to the fitted overhead.
    """
    bounded = layer_overhead(fitted_s, weights_per_layer, backend)
    return math.log(fitted_s / bounded) if bounded else 0.0


def prefill_range(weights_per_layer: float, backend: str) -> float | None:
    """Return what small layers add to the half-width of the interval of log(prompt tokens/s).

    None where they are too small for an estimate.
    """
    if backend == "cpu":
        return 0.0
    width = relative_width(weights_per_layer)
    return -math.log(width) if width >= LEAST_WIDTH else None
