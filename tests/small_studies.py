"""A study without files, and candidates with numbers."""

from sintra.config.options import PlannerConf, ProbeConf
from sintra.config.study import Study
from sintra.core.types import Candidate, Constraint, Goal, Hardware, Measurement

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


DEVICE = Hardware("d", "d", "cpu", 4, "", 1, 1, 1.0, 0.5, 0.2, 0.0, None)


def study(optimise="size_bytes", size=None, **options):
    limits = (
        [Constraint("kld_mean", "<=", 0.02, "goal.max_kld")] if optimise == "size_bytes" else []
    )
    if size:
        limits.append(Constraint("size_bytes", "<=", size, "goal.max_size_mb"))
    chosen = {"name": "ladder", "types": TYPES, "batch": 2, "rounding": "nearest"} | options
    return Study(
        "s",
        "m",
        DEVICE,
        Goal("g", tuple(limits), optimise, 1),
        PlannerConf(**chosen),
        ProbeConf(),
        {},
        0,
        9,
        (),
    )


def measured(recipe, kld, size):
    rows = (
        Measurement("kld_mean", kld, "nats", "measured", 1e-4),
        Measurement("size_bytes", size, "bytes", "exact"),
    )
    return Candidate(recipe, "", "", rows)
