"""Formats beside GGUF: what is proposed for each, and what is said of those that the device can't
run.
"""

from __future__ import annotations

from sintra.core.format import FORMATS, runnable_formats
from sintra.core.recipe import Recipe
from sintra.core.types import Proposal, Study


def tried(study: Study) -> tuple[str, ...]:
    """The formats that this study builds."""
    return runnable_formats(study.formats, study.hardware.runtimes)


def branches(study: Study) -> list[Proposal]:
    """One variant of each format that no planner speaks for."""
    kind, given = (
        f"w{study.compress.get('bits')}g{study.compress.get('group_size')}",
        study.compress.get("checkpoint"),
    )
    kinds = {"gptq_native": f"given_{given[:8]}"} if given else {}
    why = "{} beside GGUF, from the same text, measured on the same tokens"
    return [
        Proposal(
            Recipe(kinds.get(name, kind), format=name),
            why.format(name.upper().replace("_", " ")),
            "study",
        )
        for name in tried(study)
        if name != "gguf"
    ]


def left_out(study: Study) -> list[str]:
    """A line for each format that the device can't run."""
    device = study.hardware
    lines = []
    for name in study.formats:
        if name not in tried(study):
            needs = FORMATS[name].runtime
            lines.append(
                f"{name} is not tried: it needs {needs}, and {device.name} runs "
                f"{', '.join(device.runtimes)}"
            )
    return lines
