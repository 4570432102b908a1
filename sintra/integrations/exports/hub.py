"""Hugging Face hub: the GGUF with its metadata filled in, and a model card with its numbers.

The card has the recipe and the digests as well. Metadata change the file's digest, not its tensors,
which are compared; the card names both digests. Keys are those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the recipe has a namespace of its own.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra import __version__
from sintra.config.quoting import unquoted
from sintra.core.errors import Transient
from sintra.core.metrics import METRICS, metrics_in
from sintra.formats.gguf.chat_template import read_chat_format
from sintra.formats.gguf.header import open_gguf
from sintra.integrations.exports.handover import (
    DeliveredModel,
    open_delivered,
    relative_path,
)
from sintra.integrations.exports.templating import render_template, single_line
from sintra.integrations.exports.upload import (
    REPOSITORY,
    check_license,
    check_upload,
    upload_folder,
)
from sintra.store.files import hash_file
from sintra.store.store import Store

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

Metadata = dict[str, str | int | float]  # GGUF key -> value


def export(folder: Path, store: Store, license: str = "", upload: str = "") -> None:
    """Write <folder>/hub.

    license: an SPDX identifier as the hub writes it (apache-2.0); upload: owner/name.
    """
    check_license(license)
    check_upload(upload)
    winner = open_delivered(folder, store, "this export")
    out = winner.empty_folder("hub")
    target = out / f"{gguf_stem(winner)}.gguf"
    copy_with_metadata(winner.gguf, target, gguf_metadata(winner, license))
    (out / "README.md").write_text(str(model_card(winner, target, license)))
    (out / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    (out / ".gitattributes").write_text("*.gguf filter=lfs diff=lfs merge=lfs -text\n")
    winner.print_goal_note()
    print(f"wrote {relative_path(out)}")
    if upload:
        print(f"uploaded to {upload_folder(out, upload, 'model', winner.study)}")
    elif not license:
        print(
            "note: the card names no license: license=... does, and it must be one that the "
            "original's allows"
        )


def gguf_stem(winner: DeliveredModel) -> str:
    """Return model-recipe, as the hub's GGUF files are called."""
    name = f"{winner.model_name}-{winner.variant}"
    return re.sub(r"[^\w.-]+", "-", name).lstrip("-.")


def base_repository(winner: DeliveredModel) -> str | None:
    """Return the hub repository that the original came from, or None for a folder."""
    if winner.source["kind"] != "hub":
        return None
    models = [
        unquoted(option.partition("=")[2])
        for option in winner.manifest["overrides"]
        if option.startswith(("model=", "model.source="))
    ]
    base = str(models[-1]).partition("@")[0] if models else ""
    return base if re.fullmatch(REPOSITORY, base) else None


def gguf_metadata(winner: DeliveredModel, license: str) -> Metadata:
    """Return GGUF keys and values: general.* where there is something to say, and sintra.*."""
    metadata: Metadata = {
        "general.name": winner.model_name,
        "general.basename": winner.model_name,
        "general.quantized_by": f"Sintra {__version__}",
        "general.description": f"{winner.variant}, made for {winner.hardware['title']}",
        "sintra.study": winner.study,
        "sintra.recipe": json.dumps(winner.recipe.as_json(), sort_keys=True),
        "sintra.source.kind": winner.source["kind"],
        "sintra.source.digest": winner.source["digest"],
        "sintra.measured.sha256": winner.digest,
    }
    if license:
        metadata["general.license"] = license
    if kld := winner.measurements.get("kld_mean"):
        metadata["sintra.kld_mean"] = float(kld.value)
    if base := base_repository(winner):
        metadata |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": base.partition("/")[2],
            "general.base_model.0.organization": base.partition("/")[0],
            "general.base_model.0.repo_url": f"https://huggingface.co/{base}",
            "general.base_model.0.version": winner.source["digest"],
        }
    return {
        key: str(single_line(value)) if isinstance(value, str) else value
        for key, value in metadata.items()
    }


def copy_with_metadata(source: Path, target: Path, metadata: Metadata) -> None:
    """Copy a GGUF with more metadata, and read back that its tensors are the same.

    Raises Transient where they aren't.
    """
    import logging  # like gguf only needed here

    from gguf import GGUFValueType, GGUFWriter
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    kinds = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT64}
    details = {k: MetadataDetails(kinds[type(v)], v) for k, v in metadata.items()}
    reader = open_gguf(source)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    logging.getLogger("gguf-new-metadata").setLevel(logging.WARNING)
    writer = GGUFWriter(target, arch=str(architecture.contents()), endianess=reader.endianess)
    if (alignment := reader.get_field("general.alignment")) is not None:
        writer.data_alignment = int(alignment.contents())
    copy_with_new_metadata(reader, writer, details, [])
    print(file=sys.stderr)  # ends the progress bar's line
    if not same_tensors(reader, open_gguf(target)):
        raise Transient(f"{target.name} came out with other tensors than {source.name}")


def same_tensors(original: Any, copy: Any) -> bool:
    """Compare the tensors of two GGUF readers: names, types, shapes and bytes."""
    return len(original.tensors) == len(copy.tensors) and all(
        (a.name, a.tensor_type, tuple(a.shape)) == (b.name, b.tensor_type, tuple(b.shape))
        and a.data.tobytes() == b.data.tobytes()
        for a, b in zip(original.tensors, copy.tensors, strict=True)
    )


def model_card(winner: DeliveredModel, target: Path, license: str) -> ModelCard:
    """Return the model card: the hub's metadata with a model index, then the text.

    target: the GGUF that lies beside the card.
    """
    from huggingface_hub import ModelCard, ModelCardData  # not needed to list the exports

    base = base_repository(winner)
    relation: dict[str, Any] = {"base_model_relation": "quantized"} if base else {}
    data = ModelCardData(
        base_model=base,
        license=license or None,
        library_name="gguf",
        pipeline_tag="text-generation",
        tags=["gguf", "quantized", "sintra"],
        model_name=target.stem,
        eval_results=model_index(winner) or None,
        quantized_by=f"Sintra {__version__}",
        **relation,
    )
    text = render_template(
        "hub.md",
        winner=winner,
        file=target.name,
        digest=hash_file(target),
        size=target.stat().st_size,
        rows=[
            winner.measurements[name] for name in metrics_in("card") if name in winner.measurements
        ],
        base=base,
        chat=read_chat_format(winner.gguf),
        recipe=json.dumps(winner.recipe.as_json()),
        tool=f"Sintra {__version__}",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def model_index(winner: DeliveredModel) -> list[EvalResult]:
    """Return the measurements that the hub lists with a model."""
    from huggingface_hub import EvalResult  # not needed to list the exports

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="report-text",
            dataset_name=f"report text {winner.report_digest[:12]}",
            metric_type=metric.name,
            metric_name=metric.index_title,
            metric_value=winner.measurements[metric.name].value,
        )
        for metric in METRICS
        if metric.index_title and metric.name in winner.measurements
    ]
