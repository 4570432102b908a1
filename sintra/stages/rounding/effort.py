"""How much work refining does by default: calibration tokens and learning steps by model size."""

from __future__ import annotations

REFINE_TOKENS = 20480  # as many as the held-out error of SmolLM2's blocks was halved with
LEARNING_STEPS = 100
LEARNED_MODEL = 1_500_000_000  # parameters up to which blocks learn by default


def refine_tokens(requested: int | None) -> int:
    """Return how many calibration tokens refining reads: those requested, or the default."""
    return REFINE_TOKENS if requested is None else requested


def learning_steps(requested: int | None, parameters: int) -> int:
    """Return for how many steps each block learns: those requested, or the default.

    A step costs about 6 FLOP for each of a block's weights and each of the 512 tokens of its
    window, and a pass over the weights. So 100 steps over all blocks of a model of 1 G parameters
    cost 3e14 FLOP: some 50 minutes at 0.1 TFLOP/s.
    """
    if requested is not None:
        return requested
    return LEARNING_STEPS if parameters <= LEARNED_MODEL else 0
