"""Refine a device profile's prompt processing by the device's own measurements.

Seconds per token are a sum of two shares, both above zero: FLOP of the weights over one speed, FLOP
of attention over another. Least squares on the ratio to what was measured, so that fast and slow
models count alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sintra.config.options import HardwareConf
from sintra.core import lazy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

NINETY = 1.645  # standard deviations of a normal distribution's 90 % interval
LEAST_SPREAD = 0.1  # of the interval's logarithm: other models differ
TERA = 1e12


@dataclass(frozen=True)
class MeasuredPrompt:
    """Hold one measured speed of prompt processing."""

    weights: float  # FLOP of the weights per token
    attention: float  # FLOP of attention per token, of the mean cache
    tps: float  # tokens/s
    deep: bool  # whether the cache was filled before


def refine_prompts(profile: HardwareConf, rows: Sequence[MeasuredPrompt]) -> HardwareConf:
    """Return the profile with its speeds of prompts after these rows.

    That of attention is refined where caches were filled.
    """
    from scipy.optimize import nnls  # not on the no-op path

    if not rows:
        return profile
    deep = any(row.deep for row in rows)
    flops = [[r.weights, r.attention] if deep else [r.weights + r.attention] for r in rows]
    shares = np.array(flops) * np.array([[row.tps] for row in rows])
    seconds, _ = nnls(shares, np.ones(len(rows)))
    errors = np.log(np.maximum(shares @ seconds, 1e-9))
    if not seconds[0]:  # attention alone can't explain the whole time
        return profile
    spread = statistics.pstdev(errors.tolist()) if len(rows) > 1 else 0.0
    refined = replace(
        profile,
        tflops=float(f"{1 / seconds[0] / TERA:.4g}"),
        tflops_spread=float(f"{max(LEAST_SPREAD, NINETY * spread):.4g}"),
    )
    if not deep or not seconds[1]:
        return refined
    return replace(refined, attention_tflops=float(f"{1 / seconds[1] / TERA:.4g}"))
