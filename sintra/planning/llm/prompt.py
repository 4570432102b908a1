"""What the language model is shown: the solver's state, short, as JSON, and what is known of the
architecture.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypedDict

from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate, Goal
from sintra.formats.gguf.sizes import bits_per_weight
from sintra.planning.solver.search import Search

SYSTEM = Path(__file__).with_name("prompts") / "edits.v1.txt"
MAX_VARIANTS = 12  # measured variants that are shown
MAX_NAME = 60  # characters of a name


class VariantJson(TypedDict):
    """A measured variant as the language model is shown it."""

    types: dict[str, str] | str  # pattern -> tensor type of a mix; else the file type
    mb: float  # size, 10^6 bytes
    kld: float | None  # mean KLD, nats
    kv: str  # type of the KV cache
    verdict: str  # whether it holds the limits


def system_prompt() -> str:
    """Return the part of the prompt that is the same in every study."""
    return SYSTEM.read_text()


def user_prompt(search: Search, trials_left: int, refusals: list[str]) -> str:
    """Return the state of the search as JSON.

    trials_left: mixes that may still be measured on advice; refusals: why the last reply's edits
    could not be used.
    """
    study, model, surrogate = search.study, search.state.model, search.surrogate
    order = ranked(search.state.results.candidates, study.goal)
    groups, types = search.space.group_names, search.space.types
    content = {
        "model": plain_text(study.model),
        "architecture": plain_text(model.architecture),
        "blocks": model.layers,
        "device": plain_text(study.hardware.title),
        "limits": [f"{c.metric} {c.op} {c.limit:.6g}" for c in study.goal.constraints],
        "optimise": study.goal.optimise,
        "bits_of_types": {t: bits_per_weight(t) for t in types},
        "log_sensitivity_of_groups": {
            group: round(float(a), 2) for group, a in zip(groups, surrogate.theta, strict=False)
        },
        "measured": [variant_json(c, study.goal) for c in order[:MAX_VARIANTS]],
        "variants_left": trials_left,
        "known_of_the_architecture": list(search.state.adviser.knowledge),
        "similar_studies": list(search.state.priors.past_studies),
        "refused": refusals,
    }
    return json.dumps(content, ensure_ascii=True)


def variant_json(candidate: Candidate, goal: Goal) -> VariantJson:
    """Return a measured variant as the language model is shown it."""
    kld, size = candidate.value("kld_mean"), candidate.value("size_bytes")
    recipe = candidate.recipe
    return {
        "types": dict(recipe.tensors) if recipe.complete else recipe.type,
        "mb": round((size or 0) / 1e6, 3),
        "kld": None if kld is None else float(f"{kld:.4g}"),
        "kv": recipe.kv,
        "verdict": judge(candidate, goal).status,
    }


def plain_text(text: str) -> str:
    """Return a name without anything that could read like an instruction.

    At most MAX_NAME characters, no line breaks.
    """
    return re.sub(r"[^\w .:/+-]", "", text)[:MAX_NAME]
