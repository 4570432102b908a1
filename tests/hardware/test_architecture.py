"""Sizes from a config.json against what llama.cpp really writes."""

import json

import pytest
from configs import LLAMA, write
from conftest import ROOT

from sintra.core.errors import UserError
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.quantizer import quantize
from sintra.hardware.estimate import architecture

GIB = 2**30
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_key_value_heads": 8, "tie_word_embeddings": True},
        {"hidden_size": 192, "intermediate_size": 544},
    ],
)
def test_every_tensor_has_the_type_that_llama_cpp_gives_it(tmp_path, change):
    config = LLAMA | change
    model = architecture.architecture_of(config)
    write(tmp_path / "model.gguf", config)
    for preset in architecture.PRESETS:
        quantize(tmp_path / "model.gguf", tmp_path / "small.gguf", 1, kind=preset)
        layout = read_layout(tmp_path / "small.gguf")
        guessed = architecture.shape_of_preset(model, preset)
        assert guessed.weight_bytes == layout["shape"]["weight_bytes"], preset
        for name in (
            "embedding_bytes",
            "tied",
            "parameters",
            "layers",
            "kv_heads",
            "head_dim",
            "vocabulary",
        ):
            assert getattr(guessed, name) == layout["shape"][name], (preset, name)


@pytest.mark.parametrize(
    ("preset", "gib"),
    [  # llama.cpp, tools/quantize/README.md
        ("Q2_K", 2.95),
        ("Q3_K_S", 3.41),
        ("Q3_K_L", 4.02),
        ("IQ4_XS", 4.17),
        ("Q4_K_S", 4.36),
        ("Q4_K_M", 4.58),
        ("Q5_K_M", 5.33),
        ("Q6_K", 6.14),
        ("Q8_0", 7.95),
        ("F16", 14.96),
    ],
)
def test_published_sizes_of_llama_3_8b(preset, gib):
    assert architecture.shape_of_preset(
        architecture.architecture_of(LLAMA3_8B), preset
    ).weight_bytes / GIB == pytest.approx(gib, rel=0.005)


def test_experts_are_read_in_part():
    mixtral = LLAMA3_8B | {
        "model_type": "mixtral",
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    model = architecture.architecture_of(mixtral)
    assert architecture.shape_of_preset(model, "Q8_0").parameters / 1e9 == pytest.approx(
        46.7, abs=0.1
    )  # the model card's number
    assert model.active == pytest.approx(12.9 / 46.7, rel=0.02)


def test_the_bundled_model_by_its_config_alone():
    model = architecture.read_architecture(ROOT / "models" / "fable" / "config.json")
    config = json.loads((ROOT / "models" / "fable" / "config.json").read_text())
    assert (model.layers, model.vocabulary) == (config["num_hidden_layers"], config["vocab_size"])


def test_an_unknown_architecture_is_a_line():
    with pytest.raises(UserError, match="did you mean 'qwen3'"):
        architecture.architecture_of({"model_type": "qwen33"})
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        architecture.architecture_of({"model_type": "llama"})
