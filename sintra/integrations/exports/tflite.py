"""TFLite: the original model through litert-torch, run by the LiteRT interpreter and compared with
PyTorch (extra: tflite).

A GGUF's types have no counterpart there: what is exported is the 16-bit model in float32, int8 or
int4 of LiteRT's own. litert-torch clashes with constraints.txt, so it has an environment of its own
(sintra.formats.runtime.environments).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible, UserError, nearest
from sintra.core.stage import Context, cores, tool_version
from sintra.formats.runtime.call import call
from sintra.formats.runtime.environments import at_hand
from sintra.integrations.exports.agreement import (
    ARCHITECTURES,
    likeness,
    logits,
    plain,
    reason,
    words,
)
from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.store.files import unique_name
from sintra.store.store import Store

WEIGHTS = {
    "fp32": None,
    "int8": "dynamic_wi8_afp32",
    "int4": "dynamic_wi4_afp32",
}  # -> a recipe of ai-edge-quantizer's
WINDOWS = 4


def export(folder: Path, store: Store, weights: str = "fp32", length: str = "") -> None:
    """Write <folder>/tflite. weights: fp32, int8 or int4; length: tokens of the fixed input, by
    default the study's context.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights}: {nearest(weights, WEIGHTS)}")
    given = opened(folder, store, "LiteRT", None)
    ids = given.tokens()[:WINDOWS]
    if length and not (length.isdigit() and 0 < int(length) <= ids.shape[1]):
        raise UserError(
            f"length={length} is no number of tokens up to the {ids.shape[1]} of the study's "
            "windows (probe.context)"
        )
    ids = ids[:, : int(length or ids.shape[1])]
    with given.original() as source:
        out = given.fresh("tflite")
        keep = store.folder("tmp") / f"{unique_name()}.export"
        params = {"tokens": ids.tolist(), "weights": weights}
        context = Context(
            params,
            {"model": source},
            out,
            {},
            keep,
            min(cores(), int(os.environ.get("OMP_NUM_THREADS") or 2**10)),
        )
        try:
            call(context, at_hand(context, "tflite"), f"{__name__}:convert")
        except Infeasible as error:
            raise UserError(str(error)) from None
        finally:
            shutil.rmtree(keep, ignore_errors=True)
        for path in source.iterdir():
            if not path.name.endswith((".safetensors", ".safetensors.index.json")):
                shutil.copyfile(path, out / path.name)
    found = json.loads((out / "comparison.json").read_text())
    (out / "README.md").write_text(readme(given, out, weights, ids.shape[1], found))
    print(f"wrote {near(out)}: {words(found)}")


def convert(context: Context) -> None:
    """In the environment: write model.tflite, run it, compare. Raises Infeasible for what
    litert-torch can't follow.
    """
    import numpy as np

    ids = np.array(context.params["tokens"], dtype=np.int32)
    net = plain(context.inputs["model"])
    path = context.out / "model.tflite"
    lower(net, path, ids)
    if recipe := WEIGHTS[context.params["weights"]]:
        pack(path, recipe)
    versions = {
        n: tool_version(n) for n in ("litert-torch", "ai-edge-litert", "torch", "transformers")
    }
    context.write_json(
        "comparison.json", likeness(logits(net, ids), run(path, ids, context.threads)) | versions
    )


def lower(net: Any, path: Path, ids: Any) -> None:
    """A fixed input, (1, length). Raises Infeasible("unsupported")."""
    import litert_torch
    import torch

    try:
        made = litert_torch.convert(net, (torch.from_numpy(ids[:1]).long(),))
    except Exception as error:  # whatever torch.export or the lowering says of an operation
        kind, known = net.net.config.model_type, ", ".join(ARCHITECTURES)
        words = (
            f"litert-torch can't convert {kind!r} (tried and found good: {known}): {reason(error)}"
        )
        raise Infeasible("unsupported", words) from None
    made.export(str(path))


def pack(path: Path, recipe: str) -> None:
    """Quantize in place by one of ai-edge-quantizer's own recipes."""
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    packer = quantizer.Quantizer(str(path))
    packer.load_quantization_recipe(getattr(recipes, recipe)())
    made = path.with_name("packed.tflite")
    packer.quantize().export_model(str(made))
    made.replace(path)


def run(path: Path, ids: Any, threads: int) -> Any:
    """The LiteRT interpreter's logits, (windows, length, vocabulary)."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=threads).get_signature_runner("serving_default")
    name = next(iter(runner.get_output_details()))
    given = next(iter(runner.get_input_details()))
    return np.concatenate([runner(**{given: row[None].astype(np.int32)})[name] for row in ids])


def readme(given: Handover, out: Path, weights: str, length: int, found: dict[str, Any]) -> str:
    """What it is, how like the original, and what it isn't."""
    size = (out / "model.tflite").stat().st_size
    return render(
        "tflite.md",
        given=given,
        weights=weights,
        words=words(found),
        found=found,
        size=size,
        length=length,
        known=", ".join(ARCHITECTURES),
    )
