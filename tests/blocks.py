"""Random blocks of every grid."""

import gguf
import numpy as np

from sintra.stages.rounding.grids import GRIDS

KINDS = {n: gguf.GGMLQuantizationType[n] for n in GRIDS}

FLOAT_SCALES = {"MXFP4": (118, 126), "NVFP4": (8, 96)}  # bytes of scales neither tiny nor huge


def random_blocks(grid, count, seed=0):
    """Any bytes, with halves that are numbers; every eighth block has zero scales."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (count, grid.size), dtype=np.uint8)
    for at in (grid.d_at, grid.m_at):
        if at >= 0:
            half = rng.normal(0, 0.1, count).astype(np.float16)
            half[::8] = 0
            raw[:, at : at + 2] = half[:, None].view(np.uint8)
    if grid.name == "Q8_0":
        raw[:, 2:][raw[:, 2:] == 128] = 0  # -128 is never written
    if grid.name in ("MXFP4", "NVFP4"):
        scales, codes = raw[:, : grid.groups], raw[:, grid.groups :]
        scales[:] = rng.integers(*FLOAT_SCALES[grid.name], scales.shape)
        codes[codes & 15 == 8] ^= 8  # -0 is never written
        codes[codes >> 4 == 8] ^= 128
    return raw
