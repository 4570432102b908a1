"""Sound configurations of models and device profiles with odd values in some keys."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

from sintra.config.options import HardwareConf
from sintra.formats.checkpoint import config_values

SOUND: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
KEYS = (
    *config_values.RANGES,
    *config_values.KINDS,
    "is_encoder_decoder",
    "_class_name",
    "auto_map",
    "eos_token_id",
    "quant_method",
)
MODEL_TYPES = (
    "mixtral",
    "qwen2_moe",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "x",
    "../x",
    "\x1b[2J",
)
CLASSES = ("BertModel", "T5ForConditionalGeneration", "GPT2LMHeadModel", "", "a/b", "\u202e")
VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 4, 1 << 40, 1e400, -0.5, 2.0, True, False, None),
    *("", "4", "8 GB", [], [1], [0, 2], [[]], [None], ["sliding_attention"], {}, {"a": 1}),
    *({"rope_type": "yarn", "original_max_position_embeddings": 32}, {"type": 3}),
    *({"quant_method": "gptq", "bits": 4}, {"quant_method": ["x"]}, {"eos_token_id": {}}),
    *({"hidden_size": "x"}, {"model_type": "gemma3_text", "vocab_size": 4}),
)


PROFILE_VALUES = """0, -1, 1, 8, 63, 8192, 17000, 1e400, -0.0, 1e-300, 010, 0x10, 1_000, 1:30, .inf
-.inf, .nan, null, ~, yes, true, 1.10, 1e5, 8GB, '8 GiB', "17,1", [], [1], {}, {a: 1}
{ambient_c: .nan}, {throttle_c: 80}, ${oc.env:HOME}, '${ oc.env:HOME}', ${.ram_gb}, ${nosuch}
\\${x}, !!python/name:os.system, &a, *a, !!binary x, ???, ../../x, a/b, -x, .x, nvidia, cuda
[llama.cpp], [vllm], "a\\nb", "\\e[2J", "\\u202e", |, >, @a, %a, `a`, 2001-01-01, é, 模型"""


def odd_config(rng: random.Random) -> bytes:
    """A sound config.json with odd values in up to six keys."""
    config = dict(SOUND)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 6))):
        config[rng.choice(KEYS)] = rng.choice(VALUES)
    if rng.random() < 0.3:
        config["model_type"] = rng.choice(MODEL_TYPES)
    if rng.random() < 0.2:
        config["architectures"] = [rng.choice(CLASSES)]
    if rng.random() < 0.2:
        config["text_config"] = {k: v for k, v in config.items() if rng.random() < 0.7}
    mark = b"\xef\xbb\xbf" if rng.random() < 0.05 else b""
    return mark + json.dumps(config).encode()


def odd_profile(rng: random.Random) -> bytes:
    """A sound profile with odd values in up to four keys, now and then twice or misspelt."""
    values = {key: str(value) for key, value in asdict(HardwareConf()).items() if value != ()}
    lines = {k: f"{k}: {v}" for k, v in values.items() if v not in ("", "None", "('llama.cpp',)")}
    odd = PROFILE_VALUES.replace("\n", ", ").split(", ")
    for _ in range(rng.randint(0, 4)):
        key = rng.choice(
            [*HardwareConf.__dataclass_fields__, "defaults", "<<", "# @package _global_"]
        )
        place = key if rng.random() < 0.9 else f"{key} "
        lines[place] = f"{key}: {rng.choice(odd)}"
    rows = list(lines.values())
    rng.shuffle(rows)
    return "\n".join(rows).encode() + b"\n"
