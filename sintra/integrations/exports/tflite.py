"""TFLite: the original model through litert-torch (extra: tflite).

The LiteRT interpreter runs it, and its logits are compared with PyTorch's. A GGUF's types have no
counterpart there: what is exported is the 16-bit model in float32, int8 or int4 of LiteRT's own.
litert-torch clashes with constraints.txt, so it has an environment of its own
(sintra.formats.runtime.environments).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.config.ranges import count_of
from sintra.core.errors import Infeasible, UserError, nearest
from sintra.core.stage import Context, cores, tool_version
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import unlocked_python
from sintra.integrations.exports.agreement import (
    ARCHITECTURES,
    REPORT_WINDOWS,
    Agreement,
    agreement_line,
    compare_logits,
    load_logits_module,
    root_cause_line,
    torch_logits,
)
from sintra.integrations.exports.handover import (
    DeliveredModel,
    copy_tokenizer_files,
    open_delivered,
    relative_path,
)
from sintra.integrations.exports.templating import render_template
from sintra.store.files import unique_name
from sintra.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# -> a recipe of ai-edge-quantizer's
WEIGHTS = {"fp32": None, "int8": "dynamic_wi8_afp32", "int4": "dynamic_wi4_afp32"}
TOOLS = ("litert-torch", "ai-edge-litert", "torch", "transformers")


def export(folder: Path, store: Store, weights: str = "fp32", length: str = "") -> None:
    """Write <folder>/tflite.

    weights: fp32, int8 or int4; length: tokens of the fixed input, by default the study's context.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights}: {nearest(weights, WEIGHTS)}")
    winner = open_delivered(folder, store, "LiteRT", None)
    ids = winner.report_tokens()[:REPORT_WINDOWS]
    tokens = count_of(length) if length else int(ids.shape[1])
    if tokens is None or tokens > ids.shape[1]:
        raise UserError(
            f"length={length} is not a number of tokens up to the {ids.shape[1]} of the study's "
            "windows (probe.context)"
        )
    ids = ids[:, :tokens]
    with winner.original_model() as source:
        out = winner.empty_folder("tflite")
        convert_elsewhere(source, out, store, {"tokens": ids.tolist(), "weights": weights})
        copy_tokenizer_files(source, out)
    comparison = json.loads((out / "comparison.json").read_text())
    versions = {name: comparison[name] for name in TOOLS}
    readme = tflite_readme(winner, out, weights, ids.shape[1], comparison, versions)
    (out / "README.md").write_text(readme)
    print(f"wrote {relative_path(out)}: {agreement_line(comparison)}")


def convert_elsewhere(source: Path, out: Path, store: Store, params: dict[str, Any]) -> None:
    """Run `convert` on a checkpoint in the environment of litert-torch, which is made if need be.

    Raises UserError for what litert-torch can't follow.
    """
    keep = store.folder("tmp") / f"{unique_name()}.export"
    threads = min(cores(), int(os.environ.get("OMP_NUM_THREADS") or 2**10))
    context = Context(params, {"model": source}, out, {}, keep, threads)
    try:
        call_in_python(context, unlocked_python(context, "tflite"), f"{__name__}:convert")
    except Infeasible as error:
        raise UserError(str(error)) from None
    finally:
        shutil.rmtree(keep, ignore_errors=True)


def convert(context: Context) -> None:
    """Write model.tflite, run it and compare it: what runs in the environment.

    Raises Infeasible for what litert-torch can't follow.
    """
    import numpy as np  # not needed to list the exports

    ids = np.array(context.params["tokens"], dtype=np.int32)
    module = load_logits_module(context.inputs["model"])
    path = context.out / "model.tflite"
    write_tflite(module, path, ids)
    if recipe := WEIGHTS[context.params["weights"]]:
        quantize_tflite(path, recipe)
    versions = {name: tool_version(name) for name in TOOLS}
    agreement = compare_logits(torch_logits(module, ids), tflite_logits(path, ids, context.threads))
    context.write_json("comparison.json", {**agreement, **versions})


def write_tflite(module: Any, path: Path, ids: NDArray[np.int32]) -> None:
    """Write a module as TFLite with a fixed input, (1, length), as long as the windows of ids.

    Raises Infeasible("unsupported") for what litert-torch can't follow.
    """
    import litert_torch  # only in its own environment
    import torch  # takes seconds to import

    try:
        converted = litert_torch.convert(module, (torch.from_numpy(ids[:1]).long(),))
    except Exception as error:  # whatever torch.export or the lowering says of an operation
        kind, good = module.net.config.model_type, ", ".join(ARCHITECTURES)
        raise Infeasible(
            "unsupported",
            f"litert-torch can't convert {kind!r} (tried and found good: {good}): "
            f"{root_cause_line(error)}",
        ) from None
    converted.export(str(path))


def quantize_tflite(path: Path, recipe: str) -> None:
    """Quantize a model in place by one of ai-edge-quantizer's own recipes."""
    from ai_edge_quantizer import quantizer  # only in its own environment
    from ai_edge_quantizer import recipe as recipes

    packer = quantizer.Quantizer(str(path))
    packer.load_quantization_recipe(getattr(recipes, recipe)())
    packed = path.with_name("packed.tflite")
    packer.quantize().export_model(str(packed))
    packed.replace(path)


def tflite_logits(path: Path, ids: NDArray[np.int32], threads: int) -> NDArray[np.float32]:
    """Return the LiteRT interpreter's logits, (windows, length, vocabulary)."""
    import numpy as np  # not needed to list the exports
    from ai_edge_litert.interpreter import Interpreter  # only in its own environment

    runner = Interpreter(str(path), num_threads=threads).get_signature_runner("serving_default")
    logits = next(iter(runner.get_output_details()))
    tokens = next(iter(runner.get_input_details()))
    return np.concatenate([runner(**{tokens: row[None].astype(np.int32)})[logits] for row in ids])


def tflite_readme(
    winner: DeliveredModel,
    out: Path,
    weights: str,
    length: int,
    agreement: Agreement,
    versions: dict[str, str],
) -> str:
    """Return README.md: what the export is, how like the original it is, and what it isn't."""
    return render_template(
        "tflite.md",
        winner=winner,
        weights=weights,
        agreement=agreement_line(agreement),
        versions=versions,
        size=(out / "model.tflite").stat().st_size,
        length=length,
        architectures=", ".join(ARCHITECTURES),
    )
