"""GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978) checkpoints, by llmcompressor and by
GPTQModel.

The calibration text, its tokens and its windows are those of the GGUF's curvature. The library runs
in its own environment; what it wrote is read back here: every matrix of the blocks is packed, with
the bits and the groups that were asked for. Embedding, output and norms stay in 16 bits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.packed import (
    check_packed,
    compressed_layout,
    first_indivisible,
    read_quantization,
)
from sintra.formats.checkpoint.safetensors import is_model_file
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import locked_python

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

IGNORED = ["lm_head", "re:.*(mlp|block_sparse_moe)[.](gate|router|shared_expert_gate)$"]


def make(context: Context, environment: str, function: str) -> None:
    """Write model/ (the checkpoint with its tokenizer) and layout.json."""
    from sintra.formats.runtime.llama_cpp import LlamaModel

    source, gguf = context.inputs["model"], context.inputs["gguf"]
    bits, group = context.params["bits"], context.params["group"]
    if module := first_indivisible(source, group):
        raise Infeasible(
            "unsupported",
            f"the rows of {module} are no multiple of {group}: compress.group_size=64 or 32",
        )
    lock = json.loads((context.inputs["environment"] / "lock.json").read_text())
    python = locked_python(context, environment, lock)
    original = json.loads((gguf / "layout.json").read_text())
    size = min(context.params["context"], original["context"] or context.params["context"])
    tokenizer = LlamaModel(gguf / "model.gguf", size, context.threads, vocab_only=True)
    windows = tokenizer.windows(
        (context.inputs["text"] / "text.txt").read_text(), context.params["tokens"]
    )
    tokenizer.close()
    context.keep.mkdir(parents=True, exist_ok=True)
    np.save(context.keep / "tokens.npy", windows)
    room = context.params.get("max_ram_gb")
    call_in_python(context, python, f"{__name__}:{function}", room * 2**30 if room else None)
    made = context.out / "model"
    for path in source.iterdir():
        weights = path.name.endswith((".safetensors", ".index.json"))
        if is_model_file(path.name) and not weights and not (made / path.name).exists():
            shutil.copyfile(path, made / path.name)
    check_packed(source, made, bits, group)
    context.write_json("layout.json", compressed_layout(made, original))


def adopt(context: Context) -> None:
    """A GPTQ checkpoint that exists already, auto-gptq's included: the same files, read back by
    what it says of itself.
    """
    given, made = context.inputs["given"], context.out / "model"
    made.mkdir()
    for path in given.iterdir():
        shutil.copyfile(path, made / path.name)
    said = read_quantization(made)
    if said.get("method") != "gptq":
        raise Infeasible(
            "refused",
            (
                "compress.checkpoint holds no GPTQ checkpoint: it says "
                f"{said.get('method') or 'nothing'}"
            ),
        )
    check_packed(context.inputs["model"], made, said["bits"], said["group"])
    context.write_json(
        "layout.json",
        compressed_layout(made, json.loads((context.inputs["gguf"] / "layout.json").read_text())),
    )


def native(context: Context) -> None:
    """Make a checkpoint with GPTQModel, or take the one that is given."""
    if context.params["method"] == "given":
        adopt(context)
    else:
        make(context, "gptq", "by_gptqmodel")


def kept_type(folder: Path) -> torch.dtype:
    """The 16-bit type that a checkpoint's unquantized tensors are kept in: its own, or float16."""
    config = json.loads((folder / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype")
    return torch.bfloat16 if name == "bfloat16" else torch.float16


def by_llmcompressor(context: Context) -> None:
    """In the environment `compressor`: oneshot with the method of params["method"], saved as
    compressed-tensors.
    """
    import transformers
    from datasets import Dataset
    from llmcompressor import oneshot

    torch.set_num_threads(context.threads)
    torch.manual_seed(0)
    folder = context.inputs["model"]
    # On a CPU half precision is slow and loses digits in the Hessian; what is saved is 16 bits
    # again.
    kind = kept_type(folder) if torch.cuda.is_available() else torch.float32
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, trust_remote_code=False, use_safetensors=True
    )
    windows = np.load(context.keep / "tokens.npy").tolist()
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
    net.to(kept_type(folder))
    net.config.dtype = kept_type(folder)
    net.save_pretrained(context.out / "model", save_compressed=True)


def modifiers(params: dict[str, Any]) -> list[Any]:
    """llmcompressor's recipe. GPTQ is symmetric and AWQ not, as their kernels and papers have them."""
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
    what: dict[str, Any] = {
        "ignore": IGNORED,
        "config_groups": {"weights": {"targets": ["Linear"], "weights": weights}},
    }
    if params["method"] == "gptq":
        return [GPTQModifier(**what)]
    unpinned()
    return [AWQModifier(duo_scaling="both"), QuantizationModifier(**what)]


def unpinned() -> None:
    """AWQ's cache pins memory, which fails where there is no accelerator (llmcompressor 0.14)."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache._pin_intermediate = classmethod(lambda cls, value: None)


def by_gptqmodel(context: Context) -> None:
    """In the environment `gptq`: GPTQModel, the successor of auto-gptq, saved in GPTQ's own format."""
    import os

    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer cores its own default breaks
    from gptqmodel import GPTQModel, QuantizeConfig

    torch.set_num_threads(context.threads)
    config = QuantizeConfig(bits=context.params["bits"], group_size=context.params["group"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPTQModel.load(
        str(context.inputs["model"]),
        config,
        device=device,
        trust_remote_code=False,
        dtype=kept_type(context.inputs["model"]),
    )
    windows = np.load(context.keep / "tokens.npy").tolist()
    model.quantize(
        [{"input_ids": w, "attention_mask": [1] * len(w)} for w in windows], batch_size=1
    )
    model.save(str(context.out / "model"))
    (context.out / "model" / "quant_log.csv").unlink(missing_ok=True)  # it has times


GPTQ = Stage("gptq", 1, lambda c: make(c, "compressor", "by_llmcompressor"), optional=True)
AWQ = Stage("awq", 1, lambda c: make(c, "compressor", "by_llmcompressor"), optional=True)
NATIVE = Stage("gptq_native", 1, native, optional=True)
