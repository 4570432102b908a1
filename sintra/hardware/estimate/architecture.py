"""Derive a model's tensors from its config.json, and the types that llama.cpp's presets give them.

Decoder-only transformers of the Llama family: separate or fused projections aren't told apart where
the bytes are the same. Rules: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type_impl (without
importance matrix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.formats.checkpoint.config_values import (
    check_values,
    sliding_window,
    text_part,
    whole,
)
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.model_kind import is_tied
from sintra.formats.gguf.sizes import block_size, written_type
from sintra.hardware.estimate.estimate import Shape, is_k_quant, type_cost

MODEL_TYPES = (
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
NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
)
BIASED = ("qwen2", "qwen2_moe")  # q, k and v have biases
BASE_TYPES = {  # of presets that mix types
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


ModelConfig = Mapping[str, Any]  # config.json; its keys depend on the architecture


@dataclass(frozen=True)
class ConfigTensor:
    """Hold a tensor as config.json implies it."""

    kind: str  # its name without the block, as in GGUF: attn_q, ffn_down, ...
    columns: int  # row length
    count: int  # elements
    block: int | None = None  # number of its block; None: outside the blocks
    matrix: bool = True  # whether it is quantized


@dataclass(frozen=True)
class ModelSizes:
    """Hold the sizes that a config.json states or implies."""

    layers: int  # blocks
    width: int  # of the hidden state
    heads: int  # attention heads of a layer
    kv_heads: int  # heads that have keys and values of their own
    head_dim: int  # elements of a head
    vocabulary: int  # tokens
    inner: int  # width of the feed-forward part, or of one expert
    experts: int  # of a layer; 0: none

    @property
    def query(self) -> int:
        """Return the columns of a layer's queries."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Return the columns of a layer's keys, and of its values."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Architecture(ModelSizes):
    """Hold a model's sizes and tensors, as config.json has them."""

    tensors: tuple[ConfigTensor, ...]
    tied: bool  # whether the output is the token embedding
    active: float  # share of the weights that a token uses, 0 to 1
    window: int  # length of sliding attention, tokens; 0: none
    windowed: int  # layers with sliding attention


def read_architecture(path: Path) -> Architecture:
    """Read a config.json.

    Raises UserError for an unknown architecture, and for a file that can't be read.
    """
    try:
        config = read_object(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    check_values(path, config)
    return architecture_of(text_part(config))


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the architecture of a config.json's content.

    Raises UserError for an unknown architecture, and where a size is missing.
    """
    model_type = config.get("model_type") or ""
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"no estimate from a config of model_type {model_type[:80]!r}: "
            f"{nearest(model_type, MODEL_TYPES)}; a GGUF of it can be estimated"
        )
    sizes = _sizes(config)
    tied = is_tied(config)
    tensors = _tensors(config, sizes, tied)
    window, windowed = sliding_layers(config, sizes.layers)
    return Architecture(
        **vars(sizes),
        tensors=tensors,
        tied=tied,
        active=_active_share(config, sizes, tensors, tied),
        window=window,
        windowed=windowed,
    )


def _sizes(config: ModelConfig) -> ModelSizes:
    """Read the sizes of a config. Raises UserError where one is missing."""
    if missing := [key for key in NEEDED if config.get(key) is None]:
        raise UserError(f"config.json lacks {missing[0]!r}")
    width, layers, heads, vocabulary, inner = (whole(config, key) for key in NEEDED)
    experts = whole(config, "num_local_experts") or whole(config, "num_experts")
    return ModelSizes(
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads", heads),
        head_dim=whole(config, "head_dim", max(1, width // heads)),
        vocabulary=vocabulary,
        inner=whole(config, "moe_intermediate_size", inner) if experts else inner,
        experts=experts,
    )


def _active_share(
    config: ModelConfig, sizes: ModelSizes, tensors: tuple[ConfigTensor, ...], tied: bool
) -> float:
    """Return the share of the weights that a token uses: all but those of idle experts."""
    used = min(sizes.experts, whole(config, "num_experts_per_tok"))
    idle = (
        sum(t.count for t in tensors if "_exps" in t.kind) * (1 - used / sizes.experts)
        if sizes.experts
        else 0.0
    )
    read = sum(t.count for t in tensors) - (0 if tied else sizes.vocabulary * sizes.width)
    return 1 - idle / read


def _tensors(config: ModelConfig, sizes: ModelSizes, tied: bool) -> tuple[ConfigTensor, ...]:
    """Return the tensors of the whole model."""
    width, vocabulary = sizes.width, sizes.vocabulary
    tensors = [
        ConfigTensor("token_embd", width, vocabulary * width),
        ConfigTensor("output_norm", width, width, matrix=False),
    ]
    if not tied:
        tensors.append(ConfigTensor("output", width, vocabulary * width))
    for block in range(sizes.layers):
        tensors += _attention(config, block, sizes)
        tensors += _feed_forward(config, block, sizes)
        tensors += _vectors(config, block, sizes)
    return tuple(tensors)


def _attention(config: ModelConfig, block: int, sizes: ModelSizes) -> list[ConfigTensor]:
    """Return the attention matrices of a block."""
    width, q, kv = sizes.width, sizes.query, sizes.key
    output = ConfigTensor("attn_output", q, q * width, block)
    if config["model_type"] == "phi3":  # one fused matrix
        return [ConfigTensor("attn_qkv", width, width * (q + 2 * kv), block), output]
    inputs = (("attn_q", q), ("attn_k", kv), ("attn_v", kv))
    return [*(ConfigTensor(kind, width, width * rows, block) for kind, rows in inputs), output]


def _feed_forward(config: ModelConfig, block: int, sizes: ModelSizes) -> Iterator[ConfigTensor]:
    """Yield the feed-forward matrices of a block, shared experts included."""
    width, inner, experts = sizes.width, sizes.inner, sizes.experts
    if experts:
        for kind, columns, rows in _gated(width, inner):
            yield ConfigTensor(f"{kind}_exps", columns, columns * rows * experts, block)
        yield ConfigTensor("ffn_gate_inp", width, width * experts, block, matrix=False)
    elif config["model_type"] == "phi3":  # gate and up are one fused matrix
        yield ConfigTensor("ffn_up", width, 2 * width * inner, block)
        yield ConfigTensor("ffn_down", inner, inner * width, block)
    else:
        for kind, columns, rows in _gated(width, inner):
            yield ConfigTensor(kind, columns, columns * rows, block)
    shared = whole(config, "shared_expert_intermediate_size") if experts else 0
    if shared:
        for kind, columns, rows in _gated(width, shared):
            yield ConfigTensor(f"{kind}_shexp", columns, columns * rows, block)


def _gated(width: int, inner: int) -> tuple[tuple[str, int, int], ...]:
    """Return (kind, columns, rows) of a gated feed-forward part's three matrices."""
    return (("ffn_gate", width, inner), ("ffn_up", width, inner), ("ffn_down", inner, width))


def _vectors(config: ModelConfig, block: int, sizes: ModelSizes) -> list[ConfigTensor]:
    """Return the norms and biases of a block."""
    model_type, q, kv, head = config["model_type"], sizes.query, sizes.key, sizes.head_dim
    lengths = [("norm", sizes.width)] * (4 if model_type in ("gemma2", "gemma3_text") else 2)
    if model_type in ("qwen3", "qwen3_moe", "gemma3_text"):
        lengths += [("head_norm", head)] * 2
    if model_type == "olmo2":
        lengths += [("head_norm", q), ("head_norm", kv)]
    if model_type in BIASED or config.get("attention_bias"):
        lengths += [("bias", q), ("bias", kv), ("bias", kv)]
    return [ConfigTensor(kind, n, n, block, matrix=False) for kind, n in lengths]


def sliding_layers(config: ModelConfig, layers: int) -> tuple[int, int]:
    """Return the sliding window in tokens, and how many layers have it."""
    window = sliding_window(config)
    if not window:
        return 0, 0
    if types := config.get("layer_types"):
        return window, min(layers, types.count("sliding_attention"))
    model_type = config.get("model_type")
    if model_type == "gemma2":
        return window, layers - layers // 2
    if model_type == "gemma3_text":
        return window, layers - layers // whole(config, "sliding_window_pattern", 6)
    return 0, 0  # llama.cpp keeps the whole context for the others


def use_more_bits(block: int, layers: int) -> bool:
    """Return llama.cpp's use_more_bits: the first and last eighth, and every third between."""
    return block < layers // 8 or block >= 7 * layers // 8 or (block - layers // 8) % 3 == 2


def tensor_type(preset: str, tensor: ConfigTensor, architecture: Architecture) -> str:
    """Return the type of a tensor in a file of a preset."""
    base = BASE_TYPES.get(preset, preset)
    if not tensor.matrix:
        return "F32"
    if preset == "F16":
        return "F16"
    if tensor.kind == "output" or (architecture.tied and tensor.kind == "token_embd"):
        return "Q8_0" if base == "Q8_0" else written_type("Q6_K", tensor.columns)
    if tensor.block is None:
        return written_type(base, tensor.columns)
    return written_type(_type_in_block(preset, base, tensor, architecture), tensor.columns)


def _type_in_block(preset: str, base: str, tensor: ConfigTensor, architecture: Architecture) -> str:
    """Return the type of a matrix inside the blocks, before it is fitted to the row length."""
    block, layers = tensor.block or 0, architecture.layers
    kind = tensor.kind.removesuffix("_exps").removesuffix("_shexp")
    if kind in ("attn_v", "attn_qkv"):
        return _value_type(preset, base, block, architecture)
    if kind == "attn_k" and architecture.experts == 8:
        return "Q8_0"
    if kind == "ffn_down":
        return _down_type(preset, base, block, layers)
    if kind == "attn_output":
        if architecture.experts == 8:
            raised = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_XS")
            return "Q5_K" if preset in raised else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(preset, base)
    return base


def _value_type(preset: str, base: str, block: int, architecture: Architecture) -> str:
    """Return the type of a block's attn_v, or of the fused attn_qkv."""
    grouped = architecture.heads // architecture.kv_heads >= 4
    more = use_more_bits(block, architecture.layers)
    chosen = {
        "Q2_K": "Q4_K" if grouped else "Q3_K",
        "Q3_K_M": "Q5_K" if block < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_XS": "Q5_K" if grouped else base,
        "Q4_K_M": "Q6_K" if more else base,
        "Q5_K_M": "Q6_K" if more else base,
        "Q4_K_S": "Q5_K" if block < 4 else base,
    }.get(preset, base)
    if architecture.layers == 80 and grouped and chosen in ("Q3_K", "Q4_K"):
        chosen = "Q5_K"
    return "Q8_0" if architecture.experts == 8 else chosen


def _down_type(preset: str, base: str, block: int, layers: int) -> str:
    """Return the type of a block's ffn_down."""
    early, more = block < layers // 8, use_more_bits(block, layers)
    return {
        "Q2_K": "Q3_K",
        "Q3_K_M": "Q5_K" if block < layers // 16 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "Q4_K_M": "Q6_K" if more else base,
        "Q5_K_M": "Q6_K" if more else base,
        "Q4_K_S": "Q5_K" if early else base,
        "IQ4_XS": "Q5_K" if early else base,
    }.get(preset, base)


def shape_of_preset(architecture: Architecture, preset: str) -> Shape:
    """Return the shape of a file of a preset. Raises UserError for an unknown preset."""
    if preset not in PRESETS:
        raise UserError(f"no sizes are known for {preset!r}: {nearest(preset, PRESETS)}")
    total = embedding = slow = k_bytes = 0.0
    types: dict[str, int] = {}
    for tensor in architecture.tensors:
        type_ = tensor_type(preset, tensor, architecture)
        weights, block_bytes = block_size(type_)
        size = tensor.count / weights * block_bytes
        total += size
        if tensor.kind == "token_embd":
            embedding = size
        if tensor.kind != "token_embd" or architecture.tied:
            types[type_] = types.get(type_, 0) + int(size)
            slow += (type_cost(type_) - 1) * size
            k_bytes += size if is_k_quant(type_) else 0
    return Shape(
        weight_bytes=int(total),
        embedding_bytes=int(embedding),
        tied=architecture.tied,
        parameters=sum(t.count for t in architecture.tensors),
        layers=architecture.layers,
        width=architecture.width,
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        head_dim=architecture.head_dim,
        vocabulary=architecture.vocabulary,
        slow_bytes=slow,
        k_bytes=k_bytes,
        active=architecture.active,
        window=architecture.window,
        windowed=architecture.windowed,
        types=tuple(sorted(types.items())),
        inner=max((t.columns for t in architecture.tensors if t.kind == "ffn_down"), default=0),
    )
