"""Formats beside GGUF: one variant of each, and why the device can't run some of them."""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.format import PLANNED, format_of, runnable_formats
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal


def buildable_formats(study: Study) -> tuple[str, ...]:
    """Return the formats of the study that its device can run."""
    return runnable_formats(study.formats, study.hardware.runtimes)


def propose_other_formats(study: Study) -> list[Proposal]:
    """Propose one variant of each format that no planner searches in."""
    why = "{} beside GGUF, from the same text, measured on the same tokens"
    return [
        Proposal(
            Recipe(format_of(name).kind(study), format=name),
            why.format(name.upper().replace("_", " ")),
            "study",
        )
        for name in buildable_formats(study)
        if name != PLANNED
    ]


def unsupported_format_lines(study: Study) -> list[str]:
    """Write a line for each format of the study that the device can't run."""
    device, buildable = study.hardware, buildable_formats(study)
    return [
        f"{name} is not tried: it needs {format_of(name).runtime}, and {device.name} runs "
        f"{', '.join(device.runtimes)}"
        for name in study.formats
        if name not in buildable
    ]
