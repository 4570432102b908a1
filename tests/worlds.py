"""Made-up models whose damage is known, for planners to search in."""

import math

import numpy as np

from sintra.formats.gguf.sizes import Matrix
from sintra.planning.solver.groups import group_tensors
from sintra.planning.solver.surrogate import Observation, Space

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


INNER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def matrices(blocks=8, width=256):
    inner = [
        Matrix(f"blk.{b}.{k}.weight", width, width, k, b) for b in range(blocks) for k in INNER
    ]
    return (
        *inner,
        Matrix("token_embd.weight", width, 2048, "token_embd", None),
        Matrix("output.weight", width, 2048, "output", None),
    )


class World:
    """A model whose damage is known: log-normal sensitivities, a bent link, noise."""

    def __init__(self, seed, bend=0.6, noise=0.03, floor=2e-5):
        rng = np.random.default_rng(seed)
        self.matrices = matrices()
        groups = group_tensors(self.matrices, 2)
        bits = {
            "Q2_K": 0.06,
            "Q3_K": 0.018,
            "IQ4_XS": 0.005,
            "Q4_K": 0.0045,
            "Q5_K": 0.0012,
            "Q6_K": 0.0003,
            "Q8_0": 0.00002,
        }
        shares = {
            t: {m.name: c * float(rng.lognormal(0, 0.3)) for m in self.matrices}
            for t, c in bits.items()
        }
        self.space = Space(groups, shares)
        self.true = {g: float(rng.lognormal(-3, 0.9)) for g in self.space.group_names}
        self.own = {
            m.name: self.true[groups[m.name]] * float(rng.lognormal(0, 0.15)) for m in self.matrices
        }
        self.bend, self.noise, self.floor, self.rng = bend, noise, floor, rng

    def kld(self, mix):
        u = sum(self.own[n] * self.space.distortion[t][n] for n, t in mix.items())
        return self.floor + u * math.exp(self.bend * u / 0.2)

    def seen(self, mix):
        value = self.kld(mix) * float(self.rng.lognormal(0, self.noise))
        return Observation(mix, value, value * self.noise)

    def uniform(self, kind):
        return {m.name: kind for m in self.matrices}
