"""What the language model is shown: the solver's state, short, as JSON, and what is known of the
architecture.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate
from sintra.formats.gguf.sizes import bits_per_weight
from sintra.planning.solver.surrogate import Surrogate
from sintra.planning.state import History

SYSTEM = Path(__file__).with_name("prompts") / "edits.v1.txt"
SHOWN = 12


def system() -> str:
    """The standing part."""
    return SYSTEM.read_text()


def user(study: Study, history: History, model: Surrogate, left: int, refused: list[str]) -> str:
    """The state. refused: why the last answer's edits could not be taken."""
    order = ranked(history.candidates, study.goal)
    groups = model.space.group_names
    state = {
        "model": plain(study.model),
        "architecture": plain(history.architecture),
        "blocks": history.layers,
        "device": plain(study.hardware.title),
        "limits": [f"{c.metric} {c.op} {c.limit:.6g}" for c in study.goal.constraints],
        "optimise": study.goal.optimise,
        "bits_of_types": {t: bits_per_weight(t) for t in model.space.types},
        "log_sensitivity_of_groups": {
            g: round(float(a), 2) for g, a in zip(groups, model.theta, strict=False)
        },
        "measured": [line(c, study) for c in order[:SHOWN]],
        "variants_left": left,
        "known_of_the_architecture": list(history.knowledge),
        "similar_studies": list(history.past),
        "refused": refused,
    }
    return json.dumps(state, ensure_ascii=True)


def line(candidate: Candidate, study: Study) -> dict[str, Any]:
    """A measured variant."""
    kld, size = candidate.value("kld_mean"), candidate.value("size_bytes")
    types = dict(candidate.recipe.tensors) if candidate.recipe.complete else candidate.recipe.type
    return {
        "types": types,
        "mb": round((size or 0) / 1e6, 3),
        "kld": None if kld is None else float(f"{kld:.4g}"),
        "kv": candidate.recipe.kv,
        "verdict": judge(candidate, study.goal).status,
    }


def plain(text: str) -> str:
    """A name without anything that could read like an instruction: 60 characters, no line breaks."""
    return re.sub(r"[^\w .:/+-]", "", text)[:60]
