"""A study without files, and candidates with numbers."""

from sintra.core.types import Candidate, Constraint, Goal, Hardware, Measurement, Study

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]


DEVICE = Hardware("d", "d", "cpu", 4, "", 1, 1, 1.0, 0.5, 0.2, 0.0, None)


def study(optimise="size_bytes", size=None, **options):
    limits = (
        [Constraint("kld_mean", "<=", 0.02, "goal.max_kld")] if optimise == "size_bytes" else []
    )
    if size:
        limits.append(Constraint("size_bytes", "<=", size, "goal.max_size_mb"))
    chosen = {"types": TYPES, "batch": 2, "max_dropped": 1, "replay": ""} | options
    return Study(
        "s",
        "m",
        DEVICE,
        Goal("g", tuple(limits), optimise, 1),
        "ladder",
        chosen,
        {},
        {},
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
