"""Formats beside GGUF: what is proposed for each, and what is said of those that the device can't
run.
"""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.format import PLANNED, format_of, runnable
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal


def tried(study: Study) -> tuple[str, ...]:
    """The formats that this study builds."""
    return runnable(study.formats, study.hardware.runtimes)


def branches(study: Study) -> list[Proposal]:
    """Return one variant of each format whose variants no planner chooses."""
    why = "{} beside GGUF, from the same text, measured on the same tokens"
    return [
        Proposal(
            Recipe(format_of(name).kind(study), format=name),
            why.format(name.upper().replace("_", " ")),
            "study",
        )
        for name in tried(study)
        if name != PLANNED
    ]


def left_out(study: Study) -> list[str]:
    """A line for each format that the device can't run."""
    device = study.hardware
    lines = []
    for name in study.formats:
        if name not in tried(study):
            needs = format_of(name).runtime
            lines.append(
                f"{name} is not tried: it needs {needs}, and {device.name} runs "
                f"{', '.join(device.runtimes)}"
            )
    return lines
