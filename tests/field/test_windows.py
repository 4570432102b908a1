"""Sliding layers keep a window of keys and values: the same in a folder and in a GGUF."""

import json

import gguf
import numpy as np
import pytest

from sintra.formats.gguf.layout import read_layout
from sintra.hardware.estimate.architecture import read_architecture
from sintra.hardware.estimate.estimate import UBATCH, Shape, kv_bytes

LAYERS = 26
CONTEXT = 32768  # tokens


def written(path, architecture, **keys):
    """A GGUF of an architecture without any block's weights."""
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {"block_count": LAYERS, "embedding_length": 64, "context_length": CONTEXT}
    numbers |= {"attention.head_count": 4, "attention.head_count_kv": 1}
    for name, value in (numbers | {"attention.key_length": 256}).items():
        writer.add_uint32(f"{architecture}.{name}", value)
    for name, value in keys.items():
        key = f"{architecture}.attention.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((32, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Shape.of(read_layout(path))


def test_a_folder_and_its_gguf_give_the_same(tmp_path):
    config = {
        "model_type": "gemma3_text",
        "num_hidden_layers": LAYERS,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 32,
        "sliding_window": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = read_architecture(tmp_path / "config.json")
    file = written(tmp_path / "x.gguf", "gemma3", sliding_window=512)
    assert (file.window, file.windowed) == (folder.window, folder.windowed) == (512, 22)
    # 4 layers keep the whole context, 22 the window and a micro-batch; keys and values in float16
    expected = 2 * 2 * 256 * (4 * CONTEXT + 22 * (512 + UBATCH))
    assert kv_bytes(file, CONTEXT) == expected


@pytest.mark.parametrize(
    ("architecture", "keys", "windowed"),
    [
        ("llama", {}, 0),
        ("llama", {"sliding_window": 4096}, 0),  # llama.cpp keeps the whole context
        ("gemma2", {"sliding_window": 4096}, 13),
        ("gemma3", {"sliding_window": 0}, 0),
        ("gemma3", {"sliding_window": 512, "sliding_window_pattern": 2}, 13),
        ("smallthinker", {"sliding_window": 4096}, 19),
        ("other", {"sliding_window": 128, "sliding_window_pattern": [True, False] * 13}, 13),
    ],
)
def test_which_layers_slide(tmp_path, architecture, keys, windowed):
    assert written(tmp_path / "x.gguf", architecture, **keys).windowed == windowed
