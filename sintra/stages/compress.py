"""GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978) checkpoints, by llmcompressor and GPTQModel.

The calibration text, its tokens and its windows are those of the GGUF's curvature. The library runs
in its own environment; what it wrote is read back here. Every matrix of the blocks is packed, with
the bits and the groups that were asked for. Embedding, output and norms stay in 16 bits.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.folder import is_model_file
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.packed import (
    check_packed,
    compressed_layout,
    first_indivisible,
    read_quantization,
)
from sintra.formats.runtime.calibration_text import calibration_windows
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import locked_python

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

# Modules that stay in 16 bits: the output and the routers of experts.
IGNORED = ["lm_head", "re:.*(mlp|block_sparse_moe)[.](gate|router|shared_expert_gate)$"]


def compress(context: Context, environment: str, function: str) -> None:
    """Write model/ (the checkpoint with its tokenizer) and layout.json.

    environment: the name of the one that has the library; function: what of this module runs there.
    Raises Infeasible where the groups don't fit the matrices, memory is short or the library packed
    anything else than what was asked for; Transient where it broke off.
    """
    source, gguf = context.inputs["model"], context.inputs["gguf"]
    bits, group = context.params["bits"], context.params["group"]
    if module := first_indivisible(source, group):
        raise Infeasible(
            "unsupported",
            f"the rows of {module} are not multiples of {group}: compress.group_size=64 or 32",
        )
    lock = json.loads((context.inputs["environment"] / "lock.json").read_text())
    python = locked_python(context, environment, lock)
    original = json.loads((gguf / "layout.json").read_text())
    windows = calibration_windows(context, gguf / "model.gguf", original)
    context.keep.mkdir(parents=True, exist_ok=True)
    np.save(context.keep / "tokens.npy", windows.tokens)
    max_ram_gb = context.params.get("max_ram_gb")
    call_in_python(
        context, python, f"{__name__}:{function}", max_ram_gb * 2**30 if max_ram_gb else None
    )
    target = context.out / "model"
    copy_missing_files(source, target)
    check_packed(source, target, bits, group)
    context.write_json("layout.json", compressed_layout(target, original))


def copy_missing_files(source: Path, target: Path) -> None:
    """Copy what belongs to a model and the library didn't write (tokenizer), without weights."""
    for path in source.iterdir():
        is_weights = path.name.endswith((".safetensors", ".index.json"))
        if is_model_file(path.name) and not is_weights and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)


def adopt(context: Context) -> None:
    """Take a GPTQ checkpoint that exists already, auto-gptq's included, as it is.

    Raises Infeasible where it isn't one, or not packed as it says of itself.
    """
    existing, target = context.inputs["given"], context.out / "model"
    target.mkdir()
    for path in existing.iterdir():
        shutil.copyfile(path, target / path.name)
    config = read_quantization(target)
    if config.get("method") != "gptq":
        raise Infeasible(
            "refused",
            (
                "compress.checkpoint holds no GPTQ checkpoint: it says "
                f"{config.get('method') or 'nothing'}"
            ),
        )
    check_packed(context.inputs["model"], target, config["bits"], config["group"])
    original = json.loads((context.inputs["gguf"] / "layout.json").read_text())
    context.write_json("layout.json", compressed_layout(target, original))


def compress_native(context: Context) -> None:
    """Make a checkpoint with GPTQModel, or adopt one where params["method"] is "given"."""
    if context.params["method"] == "given":
        adopt(context)
    else:
        compress(context, "gptq", "by_gptqmodel")


def half_dtype(folder: Path) -> torch.dtype:
    """Return the 16-bit type of a checkpoint's unquantized tensors: its own, or float16."""
    config = read_object(folder / "config.json")
    name = config.get("dtype") or config.get("torch_dtype")
    return torch.bfloat16 if name == "bfloat16" else torch.float16


def token_windows(context: Context) -> list[list[int]]:
    """Return the windows of token ids that `compress` has kept."""
    windows: list[list[int]] = np.load(context.keep / "tokens.npy").tolist()
    return windows


def by_llmcompressor(context: Context) -> None:
    """Write model/ with llmcompressor's oneshot, saved as compressed-tensors.

    Runs in the environment `compressor`; the method is params["method"], gptq or awq.
    """
    # These exist in the environment alone.
    import transformers
    from datasets import Dataset
    from llmcompressor import oneshot

    torch.set_num_threads(context.threads)
    torch.manual_seed(0)
    folder = context.inputs["model"]
    # On a CPU half precision is slow and loses digits in the Hessian; what is saved is 16 bits
    # again.
    dtype = half_dtype(folder) if torch.cuda.is_available() else torch.float32
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
    )
    windows = token_windows(context)
    texts = Dataset.from_dict(
        {"input_ids": windows, "attention_mask": [[1] * len(w) for w in windows]}
    )
    tokenizer: Any = transformers.AutoTokenizer
    oneshot(
        model=net,
        recipe=modifiers(context.params),
        dataset=texts,
        num_calibration_samples=len(windows),
        max_seq_length=len(windows[0]),
        processor=tokenizer.from_pretrained(folder, trust_remote_code=False),
        tie_word_embeddings=True,
    )
    net.to(half_dtype(folder))
    net.config.dtype = half_dtype(folder)
    net.save_pretrained(context.out / "model", save_compressed=True)


def modifiers(params: Mapping[str, Any]) -> list[Any]:
    """Return llmcompressor's recipe: symmetric for GPTQ, with zero points for AWQ.

    That is how the kernels and papers of the two have them.
    """
    # These exist in the environment alone.
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    weights = {
        "num_bits": params["bits"],
        "type": "int",
        "symmetric": params["method"] == "gptq",
        "strategy": "group",
        "group_size": params["group"],
    }
    options: dict[str, Any] = {
        "ignore": IGNORED,
        "config_groups": {"weights": {"targets": ["Linear"], "weights": weights}},
    }
    if params["method"] == "gptq":
        return [GPTQModifier(**options)]
    disable_pinned_memory()
    return [AWQModifier(duo_scaling="both"), QuantizationModifier(**options)]


def disable_pinned_memory() -> None:
    """Stop AWQ's cache from pinning memory where there is no accelerator: there it fails.

    Seen with llmcompressor 0.14.
    """
    from llmcompressor.pipelines.cache import IntermediatesCache  # in the environment alone

    if not torch.accelerator.is_available():
        IntermediatesCache._pin_intermediate = classmethod(lambda cls, value: None)


def by_gptqmodel(context: Context) -> None:
    """Write model/ with GPTQModel, the successor of auto-gptq, in GPTQ's own format.

    Runs in the environment `gptq`.
    """
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer cores its own default breaks
    from gptqmodel import GPTQModel, QuantizeConfig  # exists in the environment alone

    torch.set_num_threads(context.threads)
    config = QuantizeConfig(bits=context.params["bits"], group_size=context.params["group"])
    model = GPTQModel.load(
        str(context.inputs["model"]),
        config,
        device="cuda" if torch.cuda.is_available() else "cpu",
        trust_remote_code=False,
        dtype=half_dtype(context.inputs["model"]),
    )
    model.quantize(
        [{"input_ids": w, "attention_mask": [1] * len(w)} for w in token_windows(context)],
        batch_size=1,
    )
    model.save(str(context.out / "model"))
    (context.out / "model" / "quant_log.csv").unlink(missing_ok=True)  # it has times


def compress_by_llmcompressor(context: Context) -> None:
    """Make a GPTQ or an AWQ checkpoint with llmcompressor."""
    compress(context, "compressor", "by_llmcompressor")


FILES = ("model/", "layout.json")  # of every artifact here
GPTQ = Stage("gptq", 1, compress_by_llmcompressor, optional=True, files=FILES)
AWQ = Stage("awq", 1, compress_by_llmcompressor, optional=True, files=FILES)
NATIVE = Stage("gptq_native", 1, compress_native, optional=True, files=FILES)
