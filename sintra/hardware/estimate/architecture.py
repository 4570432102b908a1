"""The tensors of a model that is known by its config.json alone, and the type that llama.cpp's
presets give to each.

Decoder-only transformers of the Llama family: separate or fused projections aren't told apart where
the bytes are the same. Rules: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type_impl (without
importance matrix).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.formats.gguf.sizes import block_size, written_type
from sintra.hardware.estimate.estimate import Shape, slowness

KNOWN = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
)
BIASED = ("qwen2", "qwen2_moe")  # q, k and v have biases
BASE = {
    "Q3_K_S": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_L": "Q3_K",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
}
PRESETS = (
    "F16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "IQ4_XS",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)


@dataclass(frozen=True)
class Tensor:
    """A tensor: kind is its name without the block; count: how many elements; block: None outside
    the blocks.
    """

    kind: str
    columns: int
    count: int
    block: int | None = None
    matrix: bool = True


@dataclass(frozen=True)
class Architecture:
    """What config.json says: tensors and sizes. active: share of the weights that a token uses."""

    tensors: tuple[Tensor, ...]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    experts: int
    active: float
    window: int
    windowed: int


def read(path: Path) -> Architecture:
    """From a config.json. Raises UserError where the architecture isn't known or the file isn't
    one.
    """
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    return of_config(config.get("text_config") or config)


def of_config(config: dict[str, Any]) -> Architecture:
    """From a config's dictionary."""
    kind = config.get("model_type", "")
    if kind not in KNOWN:
        raise UserError(
            f"no estimate from a config of model_type {kind!r}: {nearest(kind, KNOWN)}; a GGUF of "
            "it can be estimated"
        )
    try:
        width, layers, heads = (
            int(config[k]) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        vocabulary, inner = int(config["vocab_size"]), int(config["intermediate_size"])
    except KeyError as error:
        raise UserError(f"config.json lacks {error.args[0]!r}") from None
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or width // heads)
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 0)
    tied = bool(config.get("tie_word_embeddings", kind.startswith("gemma")))
    expert = int(config.get("moe_intermediate_size") or inner) if experts else inner
    tensors = [
        Tensor("token_embd", width, vocabulary * width),
        Tensor("output_norm", width, width, matrix=False),
    ]
    tensors += [] if tied else [Tensor("output", width, vocabulary * width)]
    for block in range(layers):
        tensors += _block(
            config, block, width, heads * head, kv_heads * head, head, expert, experts
        )
    used = int(config.get("num_experts_per_tok") or 0)
    idle = (
        sum(t.count for t in tensors if "_exps" in t.kind) * (1 - used / experts)
        if experts
        else 0.0
    )
    window, windowed = _windows(config, layers)
    read = sum(t.count for t in tensors) - (0 if tied else vocabulary * width)
    return Architecture(
        tuple(tensors),
        layers,
        width,
        heads,
        kv_heads,
        head,
        vocabulary,
        tied,
        experts,
        1 - idle / read,
        window,
        windowed,
    )


def _block(
    config: dict[str, Any],
    block: int,
    width: int,
    q: int,
    kv: int,
    head: int,
    inner: int,
    experts: int,
) -> list[Tensor]:
    kind = config["model_type"]
    found = [
        Tensor(name, columns, columns * rows, block)
        for name, columns, rows in (
            ("attn_q", width, q),
            ("attn_k", width, kv),
            ("attn_v", width, kv),
            ("attn_output", q, width),
        )
    ]
    if kind == "phi3":  # one fused matrix each
        found = [Tensor("attn_qkv", width, width * (q + 2 * kv), block), found[3]]
    ffn = [("ffn_gate", width, inner), ("ffn_up", width, inner), ("ffn_down", inner, width)]
    if experts:
        found += [Tensor(f"{n}_exps", c, c * r * experts, block) for n, c, r in ffn]
        found.append(Tensor("ffn_gate_inp", width, width * experts, block, matrix=False))
    elif kind == "phi3":
        found += [
            Tensor("ffn_up", width, 2 * width * inner, block),
            Tensor("ffn_down", inner, inner * width, block),
        ]
    else:
        found += [Tensor(n, c, c * r, block) for n, c, r in ffn]
    shared = int(config.get("shared_expert_intermediate_size") or 0) if experts else 0
    found += [
        Tensor(f"{n}_shexp", c, c * r, block)
        for n, c, r in (
            ("ffn_gate", width, shared),
            ("ffn_up", width, shared),
            ("ffn_down", shared, width),
        )
        if shared
    ]
    norms = 4 if kind in ("gemma2", "gemma3_text") else 2
    found += [Tensor("norm", width, width, block, matrix=False)] * norms
    if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
        found += [Tensor("head_norm", head, head, block, matrix=False)] * 2
    if kind == "olmo2":
        found += [
            Tensor("head_norm", q, q, block, matrix=False),
            Tensor("head_norm", kv, kv, block, matrix=False),
        ]
    if kind in BIASED or config.get("attention_bias"):
        found += [Tensor("bias", n, n, block, matrix=False) for n in (q, kv, kv)]
    return found


def _windows(config: dict[str, Any], layers: int) -> tuple[int, int]:
    """The sliding window and how many layers have it."""
    window = int(config.get("sliding_window") or 0)
    if not window or config.get("use_sliding_window") is False:
        return 0, 0
    if "layer_types" in config:
        return window, sum(t == "sliding_attention" for t in config["layer_types"])
    kind = config["model_type"]
    if kind == "gemma2":
        return window, layers - layers // 2
    if kind == "gemma3_text":
        return window, layers - layers // int(config.get("sliding_window_pattern") or 6)
    return 0, 0  # llama.cpp keeps the whole context for the others


def more_bits(block: int, layers: int) -> bool:
    """llama.cpp's use_more_bits: the first and last eighth, and every third between."""
    return block < layers // 8 or block >= 7 * layers // 8 or (block - layers // 8) % 3 == 2


def tensor_type(preset: str, tensor: Tensor, of: Architecture) -> str:
    """The type of a tensor in a file of this preset."""
    base = BASE.get(preset, preset)
    if not tensor.matrix:
        return "F32"
    if preset == "F16":
        return "F16"
    if tensor.kind == "output" or (of.tied and tensor.kind == "token_embd"):
        return "Q8_0" if base == "Q8_0" else written_type("Q6_K", tensor.columns)
    if tensor.block is None:
        return written_type(base, tensor.columns)
    return written_type(_inside(preset, base, tensor, of), tensor.columns)


def _inside(preset: str, base: str, tensor: Tensor, of: Architecture) -> str:
    block, layers, grouped = tensor.block or 0, of.layers, of.heads // of.kv_heads >= 4
    many = more_bits(block, layers)
    kind = tensor.kind.removesuffix("_exps").removesuffix("_shexp")
    if kind in ("attn_v", "attn_qkv"):
        chosen = {
            "Q2_K": "Q4_K" if grouped else "Q3_K",
            "Q3_K_M": "Q5_K" if block < 2 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "IQ4_XS": "Q5_K" if grouped else base,
            "Q4_K_M": "Q6_K" if many else base,
            "Q5_K_M": "Q6_K" if many else base,
            "Q4_K_S": "Q5_K" if block < 4 else base,
        }.get(preset, base)
        chosen = "Q5_K" if of.layers == 80 and grouped and chosen in ("Q3_K", "Q4_K") else chosen
        return "Q8_0" if of.experts == 8 else chosen
    if kind == "attn_k" and of.experts == 8:
        return "Q8_0"
    if kind == "ffn_down":
        early = block < layers // 8
        return {
            "Q2_K": "Q3_K",
            "Q3_K_M": "Q5_K" if block < layers // 16 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "Q4_K_M": "Q6_K" if many else base,
            "Q5_K_M": "Q6_K" if many else base,
            "Q4_K_S": "Q5_K" if early else base,
            "IQ4_XS": "Q5_K" if early else base,
        }.get(preset, base)
    if kind == "attn_output":
        if of.experts == 8:
            lifted = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_XS")
            return "Q5_K" if preset in lifted else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(preset, base)
    return base


def shape(of: Architecture, preset: str) -> Shape:
    """What the estimator needs of a file of this preset."""
    if preset not in PRESETS:
        raise UserError(f"no sizes are known for {preset!r}: {nearest(preset, PRESETS)}")
    total = embedding = slow = k_bytes = 0.0
    types: dict[str, int] = {}
    for tensor in of.tensors:
        kind = tensor_type(preset, tensor, of)
        weights, size = block_size(kind)
        found = tensor.count / weights * size
        total += found
        if tensor.kind == "token_embd":
            embedding = found
        if tensor.kind != "token_embd" or of.tied:
            types[kind] = types.get(kind, 0) + int(found)
            slow += (slowness(kind) - 1) * found
            k_bytes += found if slowness(kind, 1) >= 2 else 0
    return Shape(
        int(total),
        int(embedding),
        of.tied,
        sum(t.count for t in of.tensors),
        of.layers,
        of.width,
        of.heads,
        of.kv_heads,
        of.head_dim,
        of.vocabulary,
        slow,
        k_bytes,
        of.active,
        of.window,
        of.windowed,
        tuple(sorted(types.items())),
        max((t.columns for t in of.tensors if t.kind == "ffn_down"), default=0),
    )
