"""llama-quantize: the winner's tensor types, the importance matrix, and the command.

For those who want to make the file with stock llama.cpp: its types are then the winner's, to the
tensor, and its rounding llama.cpp's own.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from sintra.build.run_state import say
from sintra.core.artifact import GGUF_FILE, Artifact
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, variant_name
from sintra.core.types import Measurement
from sintra.formats.gguf.header import read_gguf_header
from sintra.formats.gguf.imatrix import load_importance, write_imatrix
from sintra.formats.gguf.imported import matrix_types
from sintra.integrations.exports.handover import (
    DeliveredModel,
    open_delivered,
    relative_path,
)
from sintra.integrations.exports.templating import render_template
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.results.finished import FinishedStudy, open_finished
from sintra.store.files import link_or_copy
from sintra.store.store import Store

TYPES, MATRIX, ORIGINAL = "tensor_types.txt", "imatrix.gguf", "original.gguf"
REGEX_SIGNS = re.compile(r"([.^$|()\[\]{}*+?\\])")  # what std::regex reads as more than itself


def export(folder: Path, store: Store, measure: str = "false") -> None:
    """Write <folder>/llama_quantize.

    measure: true: also what stock llama.cpp makes of it is measured, beside the winner.
    """
    if measure not in ("true", "false"):
        raise UserError(f"measure={measure} is neither true nor false")
    winner = open_delivered(folder, store, "llama-quantize")
    study = open_finished(folder.parent.parent, folder.name)
    base = study.build_artifact(study.graph.base(as_stock(study.recipe)), say)
    out = winner.empty_folder("llama_quantize")
    (out / TYPES).write_text(type_lines(winner.gguf))
    link_or_copy(blob(study, base, GGUF_FILE), out / ORIGINAL)
    if study.recipe.importance:
        write_importance(study, out)
    beside = measured_beside(study, winner) if measure == "true" else ""
    command = shlex.join(command_words(study.recipe))
    values = {"winner": winner, "command": command, "beside": beside}
    (out / "README.md").write_text(render_template("llama_quantize.md", **values))
    winner.print_goal_note()
    print(f"wrote {relative_path(out)}; there: {command}")
    if beside:
        print(beside)


def as_stock(recipe: Recipe) -> Recipe:
    """Return the recipe of what llama-quantize makes with a recipe's types, of the original."""
    return replace(recipe, rounding="nearest", refine=False, polish=False)


def type_lines(gguf: Path) -> str:
    """Return a file for --tensor-type-file: a line NAME=TYPE for each matrix, names as regexes."""
    types = matrix_types(read_gguf_header(gguf))
    names = {name: REGEX_SIGNS.sub(r"\\\1", name) for name in types}
    return "".join(f"^{names[name]}$={kind.lower()}\n" for name, kind in types.items())


def command_words(recipe: Recipe) -> list[str]:
    """Return the command, to be run in the export's folder."""
    matrix = ["--imatrix", MATRIX] if recipe.importance else []
    types = ["--tensor-type-file", TYPES]
    return ["llama-quantize", *matrix, *types, ORIGINAL, GGUF_FILE, recipe.type]


def blob(study: FinishedStudy, artifact: Artifact, name: str) -> Path:
    """Return where the store has a file of an artifact."""
    return study.store.blob_path(next(f.sha256 for f in artifact.files if f.path == name))


def write_importance(study: FinishedStudy, out: Path) -> None:
    """Write imatrix.gguf: that of the study's calibration text, for the blocks that are left."""
    artifact = study.build_artifact(study.graph.curvature(), say)
    folder = study.store.lay_out(artifact, out / ".curvature")
    importance = load_importance(folder, list(study.recipe.drop))
    columns = {t.name: t.shape[0] for t in read_gguf_header(out / ORIGINAL).tensors}
    tokens = study.store.read_json(artifact, "curvature.json")["tokens"]
    text = study.graph.texts["calibration"].digest
    write_imatrix(
        out / MATRIX,
        {name: means for name, means in importance.items() if name in columns},
        columns,
        tokens,
        study.workspace.study.probe.context,
        f"calibration text {text[:16]}",
    )
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def measured_beside(study: FinishedStudy, winner: DeliveredModel) -> str:
    """Return the KLD of what stock llama.cpp makes of it and of the winner, in a line."""
    quality = study.graph.variant(as_stock(study.recipe), "report").quality
    assert quality is not None
    artifact = study.build_artifact(quality, say)
    rows = parse_measurements(study.store.read_json(artifact, MEASUREMENTS_FILE))
    stock = next(m for m in rows if m.metric == "kld_mean")
    own = winner.measurements["kld_mean"]
    return (
        f"on the report text: {kld_words(stock)} as stock llama.cpp rounds, {kld_words(own)} of "
        f"{variant_name(study.recipe)}"
    )


def kld_words(kld: Measurement) -> str:
    """Return a mean KL divergence with its error."""
    return f"{kld.value:.5f} +-{kld.stderr or 0:.5f} nats"
