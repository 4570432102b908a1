"""Which architectures the ONNX and TFLite exports can do: two-block models with random weights,
exported, run and compared.

    python bench/portable.py onnx          # in the environment with the extra onnx
    cache/envs/<id>/bin/python bench/portable.py tflite  # in what `doit export_tflite` made

Prints a line for each: the largest difference from PyTorch's logits, or what the exporter said.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from sintra.core.errors import Infeasible, UserError
from sintra.integrations.exports.agreement import compare_logits, logits_module, torch_logits

KINDS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "granite",
    "gpt2",
    "mixtral",
    "qwen3_moe",
    "mamba",
)
SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 16,
    "num_local_experts": 4,
    "num_experts": 4,
    "moe_intermediate_size": 64,
}


def model(kind):
    """A two-block model of an architecture, eager attention, float32."""
    torch.manual_seed(0)
    names = set(transformers.AutoConfig.for_model(kind).to_dict())
    config = transformers.AutoConfig.for_model(
        kind, **{k: v for k, v in SIZES.items() if k in names}
    )
    net = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    for parameter in net.parameters():
        if parameter.ndim == 2:
            parameter.data *= 3
    return logits_module(net)


def tried(kind, target, folder):
    """What came of it, in words."""
    ids = np.random.default_rng(0).integers(3, 256, (2, 32)).astype(np.int32)
    net = model(kind)
    if target == "onnx":
        from sintra.integrations.exports.onnx import onnx_logits, write_onnx

        write_onnx(net, folder / "model.onnx", ids)
        other = onnx_logits(folder / "model.onnx", ids)
    else:
        from sintra.integrations.exports.tflite import tflite_logits, write_tflite

        write_tflite(net, folder / "model.tflite", ids)
        other = tflite_logits(folder / "model.tflite", ids, 1)
    agreement = compare_logits(torch_logits(net, ids), other)
    return (
        f"max {agreement['max_abs']:.2g}, {agreement['kld_mean']:.2g} nats, "
        f"{agreement['same_top']:.1%} equal top tokens"
    )


def main():
    """A line for each architecture."""
    for kind in sys.argv[2:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                words = tried(kind, sys.argv[1], Path(folder))
            except (UserError, Infeasible) as error:
                words = f"no: {error}"
            except Exception as error:
                words = f"no: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        print(f"{kind:<12} {words}", flush=True)


if __name__ == "__main__":
    main()
