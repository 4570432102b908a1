"""Hugging Face hub: the GGUF with its metadata filled in, and a model card with numbers, recipe and
digests.

Metadata change the file's digest, not its tensors, which are compared; the card names both digests.
Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the recipe has a
namespace of its own.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.core.errors import Transient, UserError
from sintra.core.metrics import METRICS, metrics_in
from sintra.core.recipe import variant_name
from sintra.formats.gguf.chat_template import read_chat
from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.integrations.exports.upload import check_target
from sintra.integrations.exports.upload import upload as send
from sintra.store.files import hash_file
from sintra.store.store import Store


def export(folder: Path, store: Store, license: str = "", upload: str = "") -> None:
    """Write <folder>/hub. license: an SPDX identifier as the hub writes it (apache-2.0); upload:
    owner/name.
    """
    if license and not re.fullmatch(r"[a-z0-9.+-]+", license):
        raise UserError(
            f"license={license} isn't an identifier of the hub's: apache-2.0, mit, llama3.1, "
            "other, ..."
        )
    if upload:
        check_target(upload)
    given = opened(folder, store, "this export")
    out = given.fresh("hub")
    target = out / f"{file_name(given)}.gguf"
    fill(given, target, license)
    (out / "README.md").write_text(str(card(given, target, license)))
    (out / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    (out / ".gitattributes").write_text("*.gguf filter=lfs diff=lfs merge=lfs -text\n")
    given.warn()
    print(f"wrote {near(out)}")
    if upload:
        print(f"uploaded to {send(out, upload, 'model', given.result['study'])}")
    elif not license:
        print(
            "note: the card names no license: license=... does, and it must be one that the "
            "original's allows"
        )


def file_name(given: Handover) -> str:
    """model-recipe, as the hub's GGUF files are called."""
    return re.sub(r"[^\w.-]+", "-", f"{given.result['model']}-{variant_name(given.recipe)}")


def base_model(given: Handover) -> str | None:
    """The hub repository that the original came from, or None for a folder."""
    if given.manifest["source"]["kind"] != "hub":
        return None
    named = [
        o.partition("=")[2]
        for o in given.manifest["overrides"]
        if o.startswith(("model=", "model.source="))
    ]
    return named[-1].partition("@")[0] if named else None


def fill(given: Handover, target: Path, license: str) -> None:
    """Copy the GGUF with more metadata, and read back that its tensors are the same. Raises
    Transient where they aren't.
    """
    import logging

    from gguf import GGUFValueType, GGUFWriter
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    from sintra.formats.gguf.header import reader as opened

    kinds = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT64}
    new = {k: MetadataDetails(kinds[type(v)], v) for k, v in metadata(given, license).items()}
    reader = opened(given.model)
    arch = reader.get_field("general.architecture")
    assert arch is not None
    logging.getLogger("gguf-new-metadata").setLevel(logging.WARNING)
    writer = GGUFWriter(target, arch=str(arch.contents()), endianess=reader.endianess)
    if (alignment := reader.get_field("general.alignment")) is not None:
        writer.data_alignment = int(alignment.contents())
    copy_with_new_metadata(reader, writer, new, [])
    print(file=sys.stderr)
    copied = opened(target)
    same = [(t.name, t.tensor_type, tuple(t.shape)) for t in reader.tensors] == [
        (t.name, t.tensor_type, tuple(t.shape)) for t in copied.tensors
    ]
    if not same or any(
        a.data.tobytes() != b.data.tobytes()
        for a, b in zip(reader.tensors, copied.tensors, strict=True)
    ):
        raise Transient(f"{target.name} came out with other tensors than {given.model.name}")


def metadata(given: Handover, license: str) -> dict[str, Any]:
    """GGUF keys and values: general.* where there is something to say, and sintra.*."""
    kld, base = given.measured.get("kld_mean"), base_model(given)
    found: dict[str, Any] = {
        "general.name": given.result["model"],
        "general.basename": given.result["model"],
        "general.quantized_by": f"Sintra {__version__}",
        "general.description": f"{variant_name(given.recipe)}, made for {given.device['title']}",
        "sintra.study": given.result["study"],
        "sintra.recipe": json.dumps(given.recipe.as_json(), sort_keys=True),
        "sintra.source.kind": given.manifest["source"]["kind"],
        "sintra.source.digest": given.manifest["source"]["digest"],
        "sintra.measured.sha256": given.digest,
    }
    if license:
        found["general.license"] = license
    if kld:
        found["sintra.kld_mean"] = float(kld["value"])
    if base:
        url = f"https://huggingface.co/{base}"
        found |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": base.partition("/")[2],
            "general.base_model.0.organization": base.partition("/")[0],
            "general.base_model.0.repo_url": url,
            "general.base_model.0.version": given.manifest["source"]["digest"],
        }
    return found


def card(given: Handover, target: Path, license: str) -> Any:
    """The model card: the hub's metadata with the measurements as a model index, then the text."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="report-text",
            dataset_name=f"report text {text[:12]}",
            metric_type=m.name,
            metric_name=m.index_title,
            metric_value=given.measured[m.name]["value"],
        )
        for m in METRICS
        if m.index_title and m.name in given.measured
        for text in [given.manifest["texts"]["report"]]
    ]
    base = base_model(given)
    more: dict[str, Any] = {"base_model_relation": "quantized"} if base else {}
    data = ModelCardData(
        base_model=base,
        license=license or None,
        library_name="gguf",
        pipeline_tag="text-generation",
        tags=["gguf", "quantized", "sintra"],
        model_name=target.stem,
        eval_results=results or None,
        quantized_by=f"Sintra {__version__}",
        **more,
    )
    rows = [given.measured[name] for name in metrics_in("card") if name in given.measured]
    chat = read_chat(given.model)
    text = render(
        "hub.md",
        given=given,
        file=target.name,
        digest=hash_file(target),
        size=target.stat().st_size,
        rows=rows,
        base=base,
        chat=chat,
        recipe=json.dumps(given.recipe.as_json()),
        tool=f"Sintra {__version__}",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
