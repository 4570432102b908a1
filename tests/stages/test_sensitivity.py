"""Sensitivities from one backward pass: against autograd over the whole model, and resumed."""

import json

import numpy as np
import pytest
import torch
from stage_lab import Lab

from sintra.core.errors import Infeasible
from sintra.core.stage import Context
from sintra.formats.runtime import blocks as blocks_module
from sintra.formats.runtime.llama_cpp import LlamaModel
from sintra.stages import sensitivity

PARAMS = {"tokens": 1024, "context": 128, "windows": 3}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("sensitivity"), tiny, toolchain)


@pytest.fixture(scope="module")
def measured(lab):
    return lab.run(sensitivity, PARAMS, **given(lab)) / "sensitivity.json"


def given(lab):
    return {"model": lab.tiny, "gguf": lab.gguf, "text": lab.root / "text"}


def windows_of(lab):
    model = LlamaModel(lab.gguf / "model.gguf", 128, 1, vocab_only=True)
    rows = model.text_windows(lab.root / "text", 1024)
    model.close()
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:3])]


def test_it_is_what_autograd_says_of_the_whole_model(lab, measured):
    """Query, down projection and the head, by the module's formula."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32).requires_grad_(False)
    layers = {
        "blk.0.attn_q.weight": net.model.layers[0].self_attn.q_proj,
        "blk.1.ffn_down.weight": net.model.layers[1].mlp.down_proj,
    }
    sums = {name: [0.0, 0.0] for name in layers}
    outputs, head, tokens = {}, [0.0, 0.0], 0
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: y}))
    generator = torch.Generator().manual_seed(0)
    table = net.get_input_embeddings().weight
    for window in torch.from_numpy(windows_of(lab)).long():
        x = table[window[None]].detach().requires_grad_()
        logits = net(inputs_embeds=x).logits[0]
        p = torch.softmax(logits.detach(), -1)
        drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
        loss = -torch.log_softmax(logits, -1)[torch.arange(len(drawn)), drawn].sum()
        kept = list(outputs.values())
        for name, g in zip(outputs, torch.autograd.grad(loss, kept), strict=True):
            sums[name][0] += g[0].square().sum(0)
            sums[name][1] += outputs[name][0].detach().square().sum(0)
        head[0] += (p * (1 - p)).sum(0)
        head[1] += logits.detach().square().sum(0)
        tokens += len(window)
    found = json.loads(measured.read_text())
    assert found["tokens"] == tokens
    weights = {name: layer.weight for name, layer in layers.items()}
    for name, (g, y) in {**sums, "output.weight": head}.items():
        rows = weights.get(name, net.get_output_embeddings().weight).square().sum(1)
        expected = 0.5 * (g * rows).sum() / rows.sum() * y.sum() / tokens**2
        assert found["tensors"][name] == pytest.approx(float(expected), rel=1e-3), name


def test_every_matrix_has_one(lab, measured):
    found = json.loads(measured.read_text())["tensors"]
    matrices = {name for name in lab.types(lab.gguf) if "norm" not in name}
    assert set(found) == matrices
    assert all(value > 0 for value in found.values())


def test_a_killed_pass_goes_on_at_its_block(lab, measured, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        blocks_module.BlockModel,
        "load",
        lambda self, n, old=blocks_module.BlockModel.load: loaded.append(n) or old(self, n),
    )
    (tmp_path / "out").mkdir()

    class Dying(Context):
        def say(self, text):
            if "block 1 of 2, backward" in text:
                raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        sensitivity.run(Dying(PARAMS, given(lab), tmp_path / "out", {}, tmp_path / "keep", 1))
    assert loaded == [0, 1, 1]
    sensitivity.run(Context(PARAMS, given(lab), tmp_path / "out", {}, tmp_path / "keep", 1))
    assert loaded == [0, 1, 1, 0]
    assert (tmp_path / "out" / "sensitivity.json").read_text() == measured.read_text()


def test_banks_of_experts_are_left_to_probes(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(sensitivity, "expert_names", lambda net: {"a": ("b", "c", "d")})
    (tmp_path / "out").mkdir()
    with pytest.raises(Infeasible, match="banks of experts"):
        sensitivity.run(Context(PARAMS, given(lab), tmp_path / "out", {}, tmp_path / "keep", 1))
