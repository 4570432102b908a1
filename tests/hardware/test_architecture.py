"""Sizes from a config.json against what llama.cpp really writes."""

import json

import numpy as np
import pytest
from conftest import ROOT

from sintra.core.errors import UserError
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.quantizer import quantize
from sintra.hardware.estimate import architecture

GIB = 2**30
LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 64,
    "tie_word_embeddings": False,
}
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
NAMES = {"norm": ("attn_norm", "ffn_norm")}


def write(path, config, tokens=False):
    """A GGUF of a Llama with these sizes, the weights random."""
    import gguf

    of = architecture.of_config(config)
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_block_count(of.layers)
    writer.add_context_length(512)
    writer.add_embedding_length(of.width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(of.heads)
    writer.add_head_count_kv(of.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(of.vocabulary)
    if tokens:
        vocabulary = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256))]
        vocabulary += [f"t{i}".encode() for i in range(of.vocabulary - len(vocabulary))]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(vocabulary)
        writer.add_token_scores([0.0] * of.vocabulary)
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (of.vocabulary - 259)])
    seen = {}
    for tensor in of.tensors:
        kind, place = tensor.kind, f"blk.{tensor.block}." if tensor.block is not None else ""
        if kind == "norm":
            seen[tensor.block] = seen.get(tensor.block, -1) + 1
            kind = NAMES[kind][seen[tensor.block]]
        shape = (
            (tensor.count // tensor.columns, tensor.columns) if tensor.matrix else (tensor.columns,)
        )
        data = random.normal(size=shape).astype(np.float16 if tensor.matrix else np.float32)
        writer.add_tensor(f"{place}{kind}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    of = architecture.of_config(config)
    write(tmp_path / "model.gguf", config)
    for preset in architecture.PRESETS:
        quantize(tmp_path / "model.gguf", tmp_path / "small.gguf", 1, kind=preset)
        layout = read_layout(tmp_path / "small.gguf")
        guessed = architecture.shape(of, preset)
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
    assert architecture.shape(
        architecture.of_config(LLAMA3_8B), preset
    ).weight_bytes / GIB == pytest.approx(gib, rel=0.005)


def test_experts_are_read_in_part():
    mixtral = LLAMA3_8B | {
        "model_type": "mixtral",
        "vocab_size": 32000,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }
    of = architecture.of_config(mixtral)
    assert architecture.shape(of, "Q8_0").parameters / 1e9 == pytest.approx(
        46.7, abs=0.1
    )  # the model card's number
    assert of.active == pytest.approx(12.9 / 46.7, rel=0.02)


def test_the_bundled_model_by_its_config_alone():
    of = architecture.read(ROOT / "models" / "fable" / "config.json")
    config = json.loads((ROOT / "models" / "fable" / "config.json").read_text())
    assert (of.layers, of.vocabulary) == (config["num_hidden_layers"], config["vocab_size"])


def test_an_unknown_architecture_is_a_line():
    with pytest.raises(UserError, match="did you mean 'qwen3'"):
        architecture.of_config({"model_type": "qwen33"})
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        architecture.of_config({"model_type": "llama"})
