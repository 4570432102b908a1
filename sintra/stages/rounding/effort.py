"""How much work refining does by default: calibration tokens and learning steps by model size."""

from __future__ import annotations

SMALL_MODEL = 100_000_000  # parameters up to which each block also learns its rounding
LEARNING_STEPS = 300


def refine_tokens(requested: int | None, parameters: int) -> int:
    """Return how many calibration tokens refining reads: those requested, or the default.

    Learning takes more text, because overfitting is what ends it (docs/benchmarks.md).
    """
    if requested is not None:
        return requested
    return 98304 if parameters <= SMALL_MODEL else 40960


def learning_steps(requested: int | None, parameters: int) -> int:
    """Return for how many steps each block learns: those requested, or the default.

    A step costs about 6 FLOP for each of a block's weights and each of the 2048 tokens of its
    windows, and three passes over the weights. So 300 steps over all blocks of a model of 100 M
    parameters cost 4e14 FLOP: more than an hour at 0.1 TFLOP/s.
    """
    if requested is not None:
        return requested
    return LEARNING_STEPS if parameters <= SMALL_MODEL else 0
