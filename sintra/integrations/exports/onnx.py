"""ONNX: the original model as a graph of token ids to logits (extra: onnx).

ONNX Runtime runs it, and its logits are compared with PyTorch's. A GGUF's types have no counterpart
in ONNX: what is exported is the 16-bit model in float32, int8 or int4 of ONNX Runtime's own.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core.errors import Infeasible, UserError, nearest
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
from sintra.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = ("fp32", "int8", "int4")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra
OPSET = 20
BLOCK = 32  # weights that share a scale in int4
# bytes of weights above which they go into a file of their own: a protobuf has at most 2 GiB
PROTOBUF = 1_500_000_000


def export(folder: Path, store: Store, weights: str = "fp32") -> None:
    """Write <folder>/onnx.

    weights: fp32, int8 (ONNX Runtime's dynamic quantization) or int4 (blocks of 32, MatMulNBits).
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights}: {nearest(weights, WEIGHTS)}")
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{', '.join(missing)} isn't installed: pip install -c constraints.txt 'sintra[onnx]'"
        )
    winner = open_delivered(folder, store, "ONNX", None)
    ids = winner.report_tokens()[:REPORT_WINDOWS]
    with winner.original_model() as source:
        out = winner.empty_folder("onnx")
        module = load_original(source)
        write_onnx(module, out / "model.onnx", ids)
        copy_tokenizer_files(source, out)
    quantize_onnx(out, weights)
    agreement = compare_logits(torch_logits(module, ids), onnx_logits(out / "model.onnx", ids))
    (out / "comparison.json").write_text(json.dumps(agreement, indent=1) + "\n")
    (out / "README.md").write_text(onnx_readme(winner, out, weights, agreement))
    print(f"wrote {relative_path(out)}: {agreement_line(agreement)}")


def load_original(source: Path) -> Any:
    """Load the network of a checkpoint. Raises UserError where transformers can't load it."""
    try:
        return load_logits_module(source)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"transformers can't load the original: {next(iter(str(error).splitlines()), '')[:160]}"
        ) from None


def write_onnx(module: Any, path: Path, ids: NDArray[np.int32]) -> None:
    """Write a module as a graph by torch.onnx's exporter, batch and length left open.

    ids: example windows, (windows, length). Raises UserError for what the exporter can't follow.
    """
    import torch  # takes seconds to import

    # an example of batch 1 would fix the batch
    batch = torch.from_numpy(ids[:1].repeat(2, axis=0)).long()
    dimensions = {"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    separate_weights = sum(p.numel() for p in module.parameters()) * 4 > PROTOBUF
    try:
        program = torch.onnx.export(
            module,
            (batch,),
            dynamo=True,
            dynamic_shapes=dimensions,
            opset_version=OPSET,
            verbose=False,
            input_names=["input_ids"],
            output_names=["logits"],
        )
        assert program is not None
        program.save(path, external_data=separate_weights)
    except Exception as error:  # the exporter has no error type that covers all it raises
        kind = module.net.config.model_type
        raise UserError(
            f"torch.onnx can't export the architecture {kind!r}: {root_cause_line(error)}"
        ) from None


def quantize_onnx(out: Path, weights: str) -> None:
    """Quantize a folder's model.onnx in place, with ONNX Runtime's own tools."""
    if weights == "fp32":
        return
    import onnx  # an optional package

    path, packed = out / "model.onnx", out / "packed.onnx"
    if weights == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic  # optional, takes seconds

        quantize_dynamic(path, packed, weight_type=QuantType.QInt8)
    else:
        # an optional package
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        packer = MatMulNBitsQuantizer(onnx.load(path), bits=4, block_size=BLOCK, is_symmetric=True)
        packer.process()
        packer.model.save_model_to_file(str(packed), (out / "model.onnx.data").exists())
    packed.replace(path)


def onnx_logits(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return ONNX Runtime's logits on the CPU, (windows, length, vocabulary).

    Raises Infeasible where it can't load the graph.
    """
    import numpy as np  # not needed to list the exports
    import onnxruntime  # an optional package

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Infeasible(
            "unsupported", f"ONNX Runtime can't load what was exported: {str(error)[:200]}"
        ) from None
    return np.concatenate(
        [session.run(["logits"], {"input_ids": row[None].astype(np.int64)})[0] for row in ids]
    )


def onnx_readme(winner: DeliveredModel, out: Path, weights: str, agreement: Agreement) -> str:
    """Return README.md: what the export is, how like the original it is, and what it isn't."""
    import onnxruntime  # an optional package
    import torch  # takes seconds to import

    return render_template(
        "onnx.md",
        winner=winner,
        weights=weights,
        agreement=agreement_line(agreement),
        size=sum(p.stat().st_size for p in out.glob("*.onnx*")),
        opset=OPSET,
        architectures=", ".join(ARCHITECTURES),
        torch=torch.__version__,
        runtime=onnxruntime.__version__,
    )
