"""Model folders whose config.json nobody meant, as far as a plan reads them: each a line or facts.

    python bench/fuzz_models.py [--inputs 20000] [--seed 0]

Inputs are a sound config.json with up to six odd values, keys of other architectures and parts; a
third of them has bytes changed (tests/fuzzing/mutate.py). Each goes through the pin, the facts of
`check-model`, the expected sizes and `estimate`. Last line: `inputs=... taken=... refused=...
tracebacks=0 hangs=0 outside=0`; exit code 1 where one of the last three isn't 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing import seeds  # noqa: E402
from fuzzing.guard import Count, Guard  # noqa: E402
from fuzzing.mutate import drawn, mutated  # noqa: E402

from sintra.core.errors import UserError  # noqa: E402
from sintra.formats.checkpoint import config_values  # noqa: E402
from sintra.formats.checkpoint.facts import folder_facts  # noqa: E402
from sintra.formats.checkpoint.folder import check_folder  # noqa: E402
from sintra.hardware.estimate.architecture import read_architecture, shape_of_preset  # noqa: E402
from sintra.planning.bounds import folder_shape  # noqa: E402
from sintra.study.pinning import Digests, pin_folder  # noqa: E402

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


def planned(data: bytes, folder: Path) -> None:
    """Take a folder with this config.json as far as a plan does. Raises UserError."""
    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(seeds.safetensors()[0])
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    pin_folder(folder, Digests(folder / "digests"), convert="f16")
    for text in vars(folder_facts(folder, check_folder(folder))).values():
        assert not isinstance(text, str) or text.isprintable()
    assert folder_shape(folder, 4.5, 1).weight_bytes >= 0
    planned.taken += 1
    with contextlib.suppress(UserError):  # an architecture without estimates
        assert shape_of_preset(read_architecture(folder / "config.json"), "Q4_K_M").weight_bytes > 0


planned.taken = 0


def main() -> int:
    """Try the inputs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    given, guard, found = parser.parse_args(), Guard(), Count()
    rng = random.Random(given.seed)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sintra-fuzz-", dir=memory) as name:
        folder = tempfile.tempdir = name
        for _ in range(given.inputs):
            data = odd_config(rng)
            if rng.random() < 1 / 3:
                data = mutated(data, drawn(rng), seeds.JSON)
            guard.tried(found, planned, data, Path(folder), (UserError,))
        tempfile.tempdir = None
    for line in found.found:
        print("  " + line.replace("\n", "\n  "))
    print(
        f"inputs={found.inputs} taken={planned.taken} refused={found.refused} "
        f"tracebacks={found.tracebacks} hangs={found.hangs} outside={found.outside}"
    )
    return 1 if found.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
