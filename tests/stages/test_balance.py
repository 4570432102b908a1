"""Balanced columns: the same function, and better 8-bit activations."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_studies import study
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from sintra.build.graph import Graph
from sintra.core.artifact import Source
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.core.stage import Context
from sintra.formats.gguf.tensor_names import gguf_names
from sintra.stages import balance
from sintra.study.workspace import resolved_balance

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"sliding_window": 16}),
    "qwen3moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "phi2": (PhiConfig, PhiForCausalLM, {}),
}
GROUPS = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}  # share their inputs


def made(folder, name):
    """A random model of an architecture, whose norms aren't all ones."""
    config, model, more = MODELS[name]
    torch.manual_seed(0)
    net = model(config(**SIZES, **more)).eval()
    for part, parameter in net.named_parameters():
        if "norm" in part or part.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
        else:
            parameter.data *= 3
    net.save_pretrained(folder)
    return net


def layout_of(name):
    return {"architecture": name, "shape": {"layers": 2}}


def a_curvature(folder, net, name):
    """Of every layer a Hessian whose diagonal spans many powers of two, and its diagonal."""
    folder.mkdir()
    modules, rng = dict(net.named_modules()), np.random.default_rng(0)
    tensors, importance, numbers = {}, {}, {}
    for module, tensor in sorted(gguf_names(net, layout_of(name)).items()):
        start, _, kind = tensor.removesuffix(".weight").rpartition(".")
        group = f"{start}.{GROUPS.get(kind, kind)}"
        if group not in numbers:
            numbers[group] = len(numbers)
            width = modules[module].in_features
            root = np.exp2(rng.uniform(-6, 6, (width, 1))) * rng.standard_normal((width, 64))
            np.save(folder / f"{numbers[group]:03}.npy", (root @ root.T).astype(np.float32))
        tensors[tensor] = numbers[group]
        importance[tensor] = np.load(folder / f"{numbers[group]:03}.npy").diagonal()
    facts = {"tensors": tensors, "influence": [0.0, 0.0], "tokens": 1, "unmapped": []}
    (folder / "curvature.json").write_text(json.dumps(facts))
    np.savez(folder / "importance.npz", **importance)
    return folder


@pytest.fixture
def balanced(tmp_path, monkeypatch):
    """A function: (original, balanced, folder of the result, curvature) of an architecture."""

    def run(name):
        net = made(tmp_path / "model", name)
        curvature = a_curvature(tmp_path / "curvature", net, name)
        monkeypatch.setattr(balance, "read_layout", lambda path: layout_of(name))
        inputs = {"model": tmp_path / "model", "gguf": tmp_path, "curvature": curvature}
        out = tmp_path / "out"
        out.mkdir()
        balance.run(Context({}, inputs, out, {}, tmp_path / "keep", 1))
        other = type(net).from_pretrained(out, dtype=torch.float32).eval()
        return net, other, out, curvature

    return run


def logits(net):
    window = torch.arange(48)[None] % SIZES["vocab_size"]
    with torch.no_grad():
        return net(window).logits


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "qwen3moe"])
def test_the_same_function_of_other_weights(balanced, name):
    net, other, _, _ = balanced(name)
    assert torch.allclose(logits(net), logits(other), rtol=1e-3, atol=1e-4)
    before, after = net.state_dict(), other.state_dict()
    moved = {n.split(".", 3)[-1] for n in before if not torch.equal(before[n], after[n])}
    attention = {"input_layernorm.weight", *(f"self_attn.{x}_proj.weight" for x in "qkvo")}
    assert attention <= moved
    experts = name == "qwen3moe"
    assert (
        {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"} <= moved
    ) != experts
    assert ("self_attn.v_proj.bias" in moved) == (name == "qwen2")
    name = "model.layers.1.self_attn.o_proj.weight"
    ratio = after[name] / before[name]
    assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4), "one for each column"
    assert float(ratio.max() / ratio.min()) > 2


def test_heads_that_share_a_value_share_a_scale(balanced):
    net, other, _, _ = balanced("llama")
    name = "model.layers.0.self_attn.o_proj.weight"
    scale = (other.state_dict()[name] / net.state_dict()[name])[0].view(2, 2, 8)
    assert torch.allclose(scale[:, 0], scale[:, 1], rtol=1e-4)


def test_a_block_in_which_something_else_reads_the_norm_stays(balanced, capsys):
    net, other, out, curvature = balanced("phi2")
    before, after = net.state_dict(), other.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert "block 1 stays as it is" in capsys.readouterr().err
    assert (out / "000.npy").read_bytes() == (curvature / "000.npy").read_bytes()


def test_weights_on_a_grid_stay():
    exact = torch.randn(64, 128)
    step = exact.view(64, 4, 32).abs().amax(-1, keepdim=True) / 8
    on_grid = (exact.view(64, 4, 32) / step).round().mul(step).view(64, 128)
    assert balance.distinct_values(exact.bfloat16()) > balance.DISTINCT
    assert balance.distinct_values(on_grid) < 0.5 * balance.DISTINCT
    layer = torch.nn.Linear(128, 64, bias=False)
    assert not balance.on_grid(torch.nn.Sequential(layer))
    layer.weight.data.copy_(on_grid)
    assert balance.on_grid(torch.nn.Sequential(layer))


def test_the_curvature_is_that_of_the_scaled_inputs(balanced):
    net, other, out, curvature = balanced("llama")
    facts = json.loads((out / "curvature.json").read_text())["tensors"]
    old, new = dict(np.load(curvature / "importance.npz")), dict(np.load(out / "importance.npz"))
    for module, tensor in gguf_names(net, layout_of("llama")).items():
        if module == "lm_head":
            assert np.array_equal(old[tensor], new[tensor])
            continue
        weights, scaled = (n.state_dict()[f"{module}.weight"].numpy() for n in (net, other))
        columns = np.linalg.norm(scaled, axis=0) / np.linalg.norm(weights, axis=0)
        if module.endswith(("v_proj", "up_proj")):  # whose rows are scaled as well
            columns = np.sqrt(old[tensor] / new[tensor])
        assert np.allclose(new[tensor], old[tensor] / columns**2, rtol=1e-4)
        number = facts[tensor]
        first, second = (np.load(f / f"{number:03}.npy") for f in (curvature, out))
        assert np.allclose(second, first / np.outer(columns, columns), rtol=1e-3)
        if not module.endswith("o_proj"):  # whose heads share scales
            spread = [np.ptp(np.log2(x[tensor])) for x in (old, new)]
            assert spread[1] < 0.8 * spread[0]


def rounded(x):
    """Inputs as llama.cpp rounds them: to 8 bits in blocks of 32 columns (Q8_0)."""
    blocks = x.reshape(len(x), -1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    return (np.round(blocks / scale) * scale).reshape(x.shape)


def test_balanced_inputs_are_rounded_better():
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.normal(0, 2, 256))
    x, weights = rng.standard_normal((512, 256)) * sizes, rng.standard_normal((64, 256))
    scale = balance.scales_of(torch.from_numpy((x**2).mean(0))).numpy()
    exact = x @ weights.T
    error = [
        np.square(rounded(x / s) @ (weights * s).T - exact).mean() for s in (np.ones(256), scale)
    ]
    assert error[1] < 0.6 * error[0]


def test_only_ours_are_made_from_it_and_only_of_real_models(tiny):
    source = Source("folder", "0" * 64, str(tiny))
    texts = {role: Source("file", "1" * 64, role) for role in ("calibration", "search")}
    ours = Recipe("Q8_0", rounding="compensated")
    made = {}
    for way in ("always", "never"):
        graph = Graph(replace(study(), balance=way), source, texts)
        made[way] = {s.stage for s in graph.quantize(ours).all()}
        stock = graph.quantize(Recipe("Q4_K_M", importance=True))
        assert "balance" not in {s.stage for s in stock.all()}
    assert made["always"] - made["never"] == {"balance"}
    hub = Source("hub", "x", "o/n")
    assert resolved_balance(study(), hub) == "always"
    assert resolved_balance(study(), source) == "never"
    assert resolved_balance(replace(study(), convert="bf16"), hub) == "never"
    assert resolved_balance(replace(study(), balance="always"), source) == "always"
    gguf_file = replace(hub, kind="gguf", locator="/a/x.gguf")
    assert resolved_balance(study(), gguf_file) == "never", "its converter needs tokenizer files"
    with pytest.raises(UserError, match=r"needs a folder or a model of the hub: x\.gguf is a GGUF"):
        resolved_balance(replace(study(), balance="always"), gguf_file)
