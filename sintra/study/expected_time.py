"""How long a study should take of a model that was never timed here, by its size.

Processor seconds for each million parameters, as one core of an Intel Xeon (2.5 GHz, AVX-512) took
them in a default study of SmolLM2-135M (docs/costs.md). Small models don't follow this: their steps
are mostly starts of processes.
"""

from __future__ import annotations

from sintra.build.graph import SENSITIVITY_WINDOWS
from sintra.config.study import Study
from sintra.config.texts import OWN, own_tokens
from sintra.planning.bounds import TINY

CORE_SHARE = 0.85  # of what a core does alone, where several work
# For each million parameters and thousand tokens: text that the model writes itself; the curvature;
# the backward pass; one variant on one text.
WRITING, CURVATURE, BACKWARD, MEASURING = 0.12, 0.06, 0.11, 0.07
FILE = 0.9  # for each million parameters: one compensated file and its distortion
FILES = 5  # types that come out apart, as a rule
PRESETS, FINALISTS = 6, 4  # stock presets on the search text, variants on the report text
MIXES = 12  # variants on the search text where tensors' sensitivities needn't be probed


def core_seconds(study: Study, parameters: int) -> float | None:
    """Return the processor seconds of a whole study; None where no such study was measured.

    parameters: of the model.
    """
    planner, probe = study.planner, study.probe
    if parameters <= TINY or planner.name != "solver" or planner.rounding != "compensated":
        return None
    written = sum(
        own_tokens(role, probe) for role, path in study.texts.paths.items() if path == OWN
    )
    calibration = probe.calibration_tokens / max(1 - probe.calibration_random, 0.1)
    searched = (min(planner.evaluations, MIXES) + PRESETS) * probe.search_tokens
    decided = FINALISTS * (probe.report_tokens + probe.second_tokens)
    per_million = (
        WRITING * written
        + CURVATURE * calibration
        + BACKWARD * SENSITIVITY_WINDOWS * probe.context
        + MEASURING * (searched + decided)
    ) / 1000 + FILE * min(FILES, len(planner.types))
    return per_million * parameters / 1e6


def wall_seconds(processor: float, cores: int) -> float:
    """Return the seconds that so many processor seconds take on some cores."""
    return processor / (cores * CORE_SHARE if cores > 1 else 1)
