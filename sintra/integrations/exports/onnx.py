"""ONNX: the original model as a graph of token ids to logits, run by ONNX Runtime and compared with
PyTorch (extra: onnx).

A GGUF's types have no counterpart in ONNX: what is exported is the 16-bit model in float32, int8 or
int4 of ONNX Runtime's own.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible, UserError, nearest
from sintra.integrations.exports.agreement import (
    ARCHITECTURES,
    likeness,
    logits,
    plain,
    reason,
    words,
)
from sintra.integrations.exports.handover import Handover, near, opened, render
from sintra.store.store import Store

WEIGHTS = ("fp32", "int8", "int4")
NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
BLOCK = 32  # weights that share a scale in int4
# bytes of weights above which they go into a file of their own: a protobuf has at most 2 GiB
PROTOBUF = 1_500_000_000
WINDOWS = 4


def export(folder: Path, store: Store, weights: str = "fp32") -> None:
    """Write <folder>/onnx. weights: fp32, int8 (ONNX Runtime's dynamic quantization) or int4
    (blocks of 32, MatMulNBits).
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights}: {nearest(weights, WEIGHTS)}")
    if missing := [n for n in NEEDED if importlib.util.find_spec(n) is None]:
        raise UserError(
            f"{', '.join(missing)} isn't installed: pip install -c constraints.txt 'sintra[onnx]'"
        )
    given = opened(folder, store, "ONNX", None)
    ids = given.tokens()[:WINDOWS]
    with given.original() as source:
        out = given.fresh("onnx")
        net = load(source)
        write(net, out / "model.onnx", ids)
        for path in source.iterdir():
            if not path.name.endswith((".safetensors", ".safetensors.index.json")):
                shutil.copyfile(path, out / path.name)
    pack(out, weights)
    found = likeness(logits(net, ids), run(out / "model.onnx", ids))
    (out / "comparison.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "README.md").write_text(readme(given, out, weights, found))
    print(f"wrote {near(out)}: {words(found)}")


def load(source: Path) -> Any:
    """The network. Raises UserError where transformers can't load it."""
    try:
        return plain(source)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"transformers can't load the original: {next(iter(str(error).splitlines()), '')[:160]}"
        ) from None


def write(net: Any, path: Path, ids: Any) -> None:
    """torch.onnx's exporter over torch.export, batch and length left open. Raises UserError for
    what it can't follow.
    """
    import torch

    batch = torch.from_numpy(
        ids[:1].repeat(2, axis=0)
    ).long()  # an example of batch 1 would fix the batch
    free = {"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    heavy = sum(p.numel() for p in net.parameters()) * 4 > PROTOBUF
    try:
        program = torch.onnx.export(
            net,
            (batch,),
            dynamo=True,
            dynamic_shapes=free,
            opset_version=OPSET,
            verbose=False,
            input_names=["input_ids"],
            output_names=["logits"],
        )
        assert program is not None
        program.save(path, external_data=heavy)
    except (
        Exception
    ) as error:  # the exporter has no error type of its own that covers all it raises
        kind = net.net.config.model_type
        raise UserError(
            f"torch.onnx can't export the architecture {kind!r}: {reason(error)}"
        ) from None


def pack(out: Path, weights: str) -> None:
    """Quantize model.onnx in its place, with ONNX Runtime's own tools."""
    if weights == "fp32":
        return
    import onnx

    path, made = out / "model.onnx", out / "packed.onnx"
    if weights == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, made, weight_type=QuantType.QInt8)
    else:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        packer = MatMulNBitsQuantizer(onnx.load(path), bits=4, block_size=BLOCK, is_symmetric=True)
        packer.process()
        packer.model.save_model_to_file(str(made), (out / "model.onnx.data").exists())
    made.replace(path)


def run(path: Path, ids: Any) -> Any:
    """ONNX Runtime's logits on the CPU, (windows, length, vocabulary). Raises Infeasible where it
    can't load the graph.
    """
    import numpy as np
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Infeasible(
            "unsupported", f"ONNX Runtime can't load what was exported: {str(error)[:200]}"
        ) from None
    return np.concatenate(
        [session.run(["logits"], {"input_ids": row[None].astype(np.int64)})[0] for row in ids]
    )


def readme(given: Handover, out: Path, weights: str, found: dict[str, float]) -> str:
    """What it is, how like the original, and what it isn't."""
    import onnxruntime
    import torch

    size = sum(p.stat().st_size for p in out.glob("*.onnx*"))
    return render(
        "onnx.md",
        given=given,
        weights=weights,
        found=found,
        words=words(found),
        size=size,
        opset=OPSET,
        known=", ".join(ARCHITECTURES),
        torch=torch.__version__,
        runtime=onnxruntime.__version__,
    )
