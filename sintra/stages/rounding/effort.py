"""How much work refining is: what is usual for a model of a size."""

from __future__ import annotations

# Each block of a small model learns, which takes more text: overfitting is what ends it
# (docs/benchmarks.md).
SMALL = 100_000_000
TOKENS, STEPS = {True: 98304, False: 40960}, {True: 300, False: 0}


def given(asked: int | None, usual: dict[bool, int], parameters: int) -> int:
    """What was asked for, or else what is usual for a model of so many parameters.

    A step of learning costs about 8 FLOP for each of a block's weights and each of the 2048 tokens
    of its windows: 300 steps over all blocks of 100 M parameters 5e14, an hour and a half at 0.1
    TFLOP/s.
    """
    return usual[parameters <= SMALL] if asked is None else asked
