"""Every stage and probe on a real two-block model, against an independent computation."""

import json

import numpy as np
import pytest
import torch
from conftest import make_llama
from stage_lab import TEXT, Lab
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sintra.core.errors import Infeasible, UserError
from sintra.formats.gguf.attention import refusal_reason
from sintra.formats.gguf.header import read_array, read_texts
from sintra.formats.gguf.imatrix import load_importance
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.mapped import open_tensors
from sintra.formats.gguf.sizes import PRESET_BITS
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.formats.runtime.quantizer import file_types
from sintra.hardware.estimate.estimate import Shape, kv_bytes
from sintra.probes import baseline, divergence, memory, quality, speed
from sintra.probes.measurements import parse_measurements
from sintra.stages import convert, curvature, prune, quantize


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


def test_converted_model_predicts_what_the_original_does(lab):
    hf = AutoModelForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32)
    with open_model(lab.gguf / "model.gguf", 128, 1) as model:
        window = model.windows(TEXT, 256)[0]
        ours = model.log_probs(window, 0)
    with torch.no_grad():
        theirs = (
            hf(input_ids=torch.from_numpy(window).long()[None])
            .logits[0]
            .log_softmax(-1)
            .numpy()[:-1]
        )
    assert np.abs(ours - theirs).max() < 0.05
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.97


def test_tokens_are_sentencepieces(lab):
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(lab.tiny / "tokenizer.model"))
    model = LlamaModel(lab.gguf / "model.gguf", 128, 1, vocab_only=True)
    assert model.tokenize(TEXT[:500]).tolist() == sp.encode(TEXT[:500])
    model.close()


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_S", "Q2_K"])
def test_layout_is_read_back(lab, kind):
    out = lab.quantize(kind)
    layout = json.loads((out / "layout.json").read_text())
    header = (out / "model.gguf").stat().st_size - layout["shape"]["weight_bytes"]
    assert 0 < header < 200_000
    assert (
        layout["shape"]["weight_bytes"]
        < json.loads((lab.gguf / "layout.json").read_text())["shape"]["weight_bytes"]
    )
    assert layout["shape"]["layers"] == 2
    assert layout["fallbacks"] == []


def test_a_dry_run_says_what_presets_write(lab, tmp_path):
    """Also where rows hold no whole blocks of 256."""
    narrow = make_llama(tmp_path / "narrow", hidden=192)
    for base in (lab.gguf, lab.run(convert, {"type": "f16"}, model=narrow, toolchain=lab.tools)):
        told = json.loads((base / "layout.json").read_text())["presets"]
        assert told.keys() == PRESET_BITS.keys()
        for preset in ("Q2_K", "Q4_K_M", "IQ4_XS"):
            written = lab.types(lab.quantize(preset, base=base))
            assert told[preset] == {n: written[n] for n in told[preset]}
            assert {n for n, kind in written.items() if kind != "F32"} == told[preset].keys()
    assert not list(lab.root.rglob("never-written.gguf"))


def test_tensors_are_mapped_as_gguf_reads_them(lab):
    from gguf import GGUFReader

    for folder in (lab.gguf, lab.quantize("Q4_K_M")):
        theirs, ours = GGUFReader(folder / "model.gguf"), open_tensors(folder / "model.gguf")
        assert len(theirs.tensors) == len(ours.tensors)
        for a, b in zip(theirs.tensors, ours.tensors, strict=True):
            assert (a.name, a.tensor_type, a.n_bytes) == (b.name, b.tensor_type, b.n_bytes)
            assert tuple(a.shape) == b.shape
            assert a.data.dtype == b.data.dtype
            assert (a.data == b.data).all()
        tokens = ours.header.metadata["tokenizer.ggml.tokens"]
        field = theirs.get_field("tokenizer.ggml.tokens")
        last = tokens.length - 1
        wanted = {n: field.contents(n) for n in (0, 1, 300, last)}
        assert read_texts(folder / "model.gguf", tokens, {*wanted, last + 1}) == wanted
        scores = theirs.get_field("tokenizer.ggml.scores").contents()
        found = read_array(folder / "model.gguf", ours.header.metadata["tokenizer.ggml.scores"])
        assert found == scores


def test_first_override_wins(lab):
    types = lab.types(
        lab.quantize(
            "Q4_K_S", [(r"blk\.0\.ffn_down", "Q8_0"), ("ffn_down", "Q6_K"), ("token_embd", "Q5_K")]
        )
    )
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.1.ffn_down.weight"] == "Q6_K"
    assert types["token_embd.weight"] == "Q5_K"


def test_shape_fallback_is_named(lab, tmp_path):
    narrow = make_llama(tmp_path / "narrow", hidden=64)
    base = lab.run(convert, {"type": "f16"}, model=narrow, toolchain=lab.tools)
    out = lab.quantize("Q4_K_M", [("attn_q", "Q4_K")], base=base)
    missed = json.loads((out / "layout.json").read_text())["fallbacks"]
    assert ["blk.0.attn_q.weight", "Q4_K", lab.types(out)["blk.0.attn_q.weight"]] in missed
    assert lab.types(out)["blk.0.attn_q.weight"] != "Q4_K"


def test_unknown_types_are_refused(lab):
    with pytest.raises(Infeasible, match="did you mean 'Q4_K_M'"):
        lab.quantize("Q4_KM")
    with pytest.raises(Infeasible, match="not a tensor type"):
        lab.quantize("Q4_K_M", [("attn_q", "Q9_X")])
    assert {"Q4_K_M", "IQ2_XXS", "TQ1_0", "BF16"} <= set(file_types())


def test_iq2_needs_the_importance_matrix(lab):
    with pytest.raises(Infeasible, match=r"llama\.cpp can't make"):
        lab.quantize("IQ2_XXS")
    matrix = lab.run(
        curvature,
        {"tokens": 512, "context": 128, "random": 0.0},
        model=lab.tiny,
        gguf=lab.gguf,
        text=lab.root / "text",
    )
    assert "IQ2_XXS" in lab.types(lab.quantize("IQ2_XXS", importance=matrix)).values()


def test_importance_is_the_mean_square_of_the_inputs(lab):
    out = lab.run(
        curvature,
        {"tokens": 512, "context": 128, "random": 0.0},
        model=lab.tiny,
        gguf=lab.gguf,
        text=lab.root / "text",
    )
    found = load_importance(out, [])
    assert set(found) == {
        n
        for n in lab.types(lab.gguf)
        if n.endswith("weight") and "norm" not in n and "token" not in n
    }
    hf = AutoModelForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32)
    tokens = LlamaModel(lab.gguf / "model.gguf", 128, 1, vocab_only=True)
    windows = torch.from_numpy(tokens.windows(TEXT, 512)).long()
    tokens.close()
    with torch.no_grad():
        states = hf(input_ids=windows, output_hidden_states=True).hidden_states
        normed = hf.model.layers[0].input_layernorm(states[0])
    expected = normed.square().mean((0, 1)).numpy()
    assert np.allclose(found["blk.0.attn_q.weight"], expected, rtol=1e-3)
    assert np.array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_k.weight"])
    shifted = load_importance(out, [0])
    assert np.array_equal(shifted["blk.0.attn_q.weight"], found["blk.1.attn_q.weight"])
    assert not any(n.startswith("blk.1.") for n in shifted)


def test_pruned_model_has_the_other_block(lab):
    out = lab.run(prune, {"drop": [0]}, gguf=lab.gguf)
    assert read_layout(out / "model.gguf")["shape"]["layers"] == 1
    from gguf import GGUFReader

    def tensor(folder, name):
        return next(t.data for t in GGUFReader(folder / "model.gguf").tensors if t.name == name)

    assert np.array_equal(
        tensor(out, "blk.0.ffn_up.weight"), tensor(lab.gguf, "blk.1.ffn_up.weight")
    )
    with open_model(out / "model.gguf", 128, 1) as model:
        assert model.log_probs(model.windows(TEXT, 256)[0], 64).shape == (63, 2048)


@pytest.mark.parametrize("drop", [[2], [-1], [0, 1]])
def test_blocks_that_cannot_be_dropped(lab, drop):
    with pytest.raises(Infeasible, match="can't be dropped"):
        lab.run(prune, {"drop": drop}, gguf=lab.gguf)


def test_a_block_without_attention_is_its_feed_forward_part_alone(lab):
    """llama.cpp's logits against transformers' with that attention's output at zero, to what 16
    bits of weights leave.
    """
    out = lab.run(prune, {"drop": [], "no_attention": [1]}, gguf=lab.gguf)
    layout = read_layout(out / "model.gguf")
    assert layout["architecture"] == "deci"
    assert layout["shape"]["bare"] == 1
    assert not [t[0] for t in layout["tensors"] if t[0].startswith("blk.1.attn")]
    assert (
        Shape.of(layout).weight_bytes < Shape.of(read_layout(lab.gguf / "model.gguf")).weight_bytes
    )
    assert (
        kv_bytes(Shape.of(layout), 128)
        == kv_bytes(Shape.of(read_layout(lab.gguf / "model.gguf")), 128) / 2
    )
    net = LlamaForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32)
    net.model.layers[1].self_attn.o_proj.weight.data.zero_()
    with (
        open_model(out / "model.gguf", 128, 1) as cut,
        open_model(lab.gguf / "model.gguf", 128, 1) as whole,
    ):
        window = cut.windows(TEXT, 256)[0]
        found, before = cut.log_probs(window, 64), whole.log_probs(window, 64)
    with torch.no_grad():
        wanted = (
            net(torch.from_numpy(np.asarray(window)).long()[None])
            .logits[0]
            .log_softmax(-1)
            .numpy()[64:-1]
        )
    assert np.abs(found - wanted).max() < 0.1 * np.abs(found - before).max()


def test_variants_without_attention_are_quantized_and_compensated(lab):
    """Names of the tensors stay, so importance matrix and curvature go on fitting."""
    cut = lab.run(prune, {"drop": [], "no_attention": [1]}, gguf=lab.gguf)
    given = {"model": lab.tiny, "gguf": lab.gguf, "text": lab.root / "text"}
    measured = lab.run(curvature, {"tokens": 256, "context": 64, "random": 0.2}, **given)
    params = {
        "type": "Q4_K_M",
        "tensors": [[".*", "Q4_K"]],
        "dropped": [],
        "rounding": "compensated",
    }
    out = lab.run(quantize, params, gguf=cut, importance=measured, curvature=measured)
    rounding = json.loads((out / "layout.json").read_text())["rounding"]
    assert "blk.0.attn_q.weight" in rounding["compensated"]
    assert not [n for n in rounding["compensated"] if n.startswith("blk.1.attn")]
    with open_model(out / "model.gguf", 128, 1) as model:
        assert np.isfinite(model.log_probs(model.windows(TEXT, 256)[0], 64)).all()


def test_what_is_dropped_moves_the_numbers_of_the_rest(lab, tmp_path, toolchain):
    three = Lab(tmp_path / "three", make_llama(tmp_path / "model", hidden=64, layers=3), toolchain)
    out = three.run(prune, {"drop": [0], "no_attention": [2]}, gguf=three.gguf)
    names = [t[0] for t in read_layout(out / "model.gguf")["tensors"]]
    assert "blk.0.attn_q.weight" in names
    assert "blk.1.attn_q.weight" not in names
    assert "blk.2.ffn_up.weight" not in names


@pytest.mark.parametrize(
    ("drop", "silent", "why"),
    [([], [2], "can't be left out"), ([], [0], "first block"), ([1], [1], "left out whole")],
)
def test_attention_that_cannot_be_left_out(lab, drop, silent, why):
    with pytest.raises(Infeasible, match=why):
        lab.run(prune, {"drop": drop, "no_attention": silent}, gguf=lab.gguf)


def test_other_architectures_are_refused_with_the_reason():
    assert refusal_reason("llama", ["blk.0.ffn_up.weight"]) is None
    assert "not of qwen2" in refusal_reason("qwen2", [])
    assert "mixture of experts" in refusal_reason("llama", ["blk.0.ffn_up_exps.weight"])


def numbers(folder):
    return {m["metric"]: m for m in json.loads((folder / "measurements.json").read_text())}


def base(lab, **more):
    params = {"context": 128, "tokens": 1024, "top_k": 512} | more
    return lab.run(baseline, params, gguf=lab.gguf, text=lab.root / "text")


def test_a_model_does_not_differ_from_itself(lab):
    found = numbers(lab.run(quality, {"seed": 0}, gguf=lab.gguf, baseline=base(lab)))
    assert found["kld_mean"]["value"] == pytest.approx(0, abs=1e-7)
    assert found["same_top"]["value"] == 1
    assert found["ppl_ratio"]["value"] == pytest.approx(1, abs=1e-6)
    assert found["kld_mean"]["n"] == 8 * 63


def test_divergence_is_the_textbook_one(lab):
    small, whole = lab.quantize("Q4_0"), base(lab)
    found = numbers(lab.run(quality, {"seed": 0}, gguf=small, baseline=whole))
    total, same = [], []
    with open_model(lab.gguf / "model.gguf", 128, 1) as p:
        windows = p.windows(TEXT, 1024)
        reference = [p.log_probs(w, 64).astype(np.float64) for w in windows]
    with open_model(small / "model.gguf", 128, 1) as q:
        for w, lp in zip(windows, reference, strict=True):
            lq = q.log_probs(w, 64).astype(np.float64)
            total.append((np.exp(lp) * (lp - lq)).sum(1))
            same.append(lp.argmax(1) == lq.argmax(1))
    assert found["kld_mean"]["value"] == pytest.approx(np.mean(total), rel=1e-5)
    assert found["kld_mean"]["value"] > 1e-3
    assert found["same_top"]["value"] == pytest.approx(np.mean(same))
    assert found["kld_p999"]["value"] == pytest.approx(
        np.quantile(np.concatenate(total), 0.999), rel=1e-4
    )
    assert 0 < found["kld_mean"]["stderr"] < found["kld_mean"]["value"]


def test_top_k_and_drawn_tokens_agree_with_the_whole(lab, monkeypatch):
    """With 64 of 300 tokens stored, the drawn ones must make up for the others."""
    small = lab.quantize("Q4_0")
    whole = lab.run(quality, {"seed": 0}, gguf=small, baseline=base(lab))
    monkeypatch.setattr(baseline, "WHOLE_VOCABULARY", 1)
    part = base(lab, top_k=64)
    stored = divergence.Baseline.read(part)
    mass = np.exp(stored.logp[:].astype(np.float64)).sum(1) + np.exp(stored.rest[:])
    assert np.allclose(mass, 1, atol=1e-5)
    assert np.exp(stored.rest[:]).mean() > 0.2, "else there would be nothing to make up for"
    estimated = lab.run(quality, {"seed": 0}, gguf=small, baseline=part)
    exact, close = numbers(whole), numbers(estimated)
    assert close["same_top"] == exact["same_top"]
    gaps = np.load(estimated / "kld.npy") - np.load(whole / "kld.npy")
    assert gaps.std() > 0
    noise = gaps.std() / np.sqrt(gaps.size)
    assert abs(gaps.mean()) < 4 * noise
    assert 4 * noise < 0.08 * exact["kld_mean"]["value"], "a bias of 8 % would be noticed"


def test_drawn_tokens_follow_their_weights():
    weights = np.array([[0.0, 3.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    drawn, mass = baseline.draw_tokens(weights, 4000, np.random.default_rng(0))
    assert mass.tolist() == [4.0, 1.0]
    assert np.bincount(drawn[0], minlength=5).tolist() == [0, 3000, 0, 1000, 0]
    assert set(drawn[1].tolist()) == {0}


def test_bootstrap_error_is_that_of_windows():
    rng = np.random.default_rng(0)
    kld = rng.exponential(1.0, (400, 1)).repeat(50, axis=1)  # fully correlated within a window
    rows = divergence.divergence_measurements(kld, kld > 1, kld, kld * 0, 0, "")
    found = {m.metric: m for m in rows}["kld_mean"]
    assert found.stderr == pytest.approx(1 / np.sqrt(400), rel=0.2), "not 1/sqrt(400*50)"


def test_nan_is_a_failure(lab):
    broken = lab.root / "broken"
    broken.mkdir(exist_ok=True)
    data = bytearray((lab.gguf / "model.gguf").read_bytes())
    from gguf import GGUFReader

    norm = next(
        t for t in GGUFReader(lab.gguf / "model.gguf").tensors if t.name == "output_norm.weight"
    )
    data[norm.data_offset : norm.data_offset + 4] = np.float32("nan").tobytes()
    (broken / "model.gguf").write_bytes(data)
    with pytest.raises(Infeasible, match="not finite") as caught:
        lab.run(quality, {"seed": 0}, gguf=broken, baseline=base(lab))
    assert caught.value.kind == "not_a_number"


def test_speed_and_memory(lab):
    found = numbers(lab.run(speed, {"prompt": 32, "generate": 4, "repeat": 3}, gguf=lab.gguf))
    for name in ("pp_tps", "tg_tps"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
        assert found[name]["n"] == 3
    peak = numbers(lab.run(memory, {"context": 128}, gguf=lab.gguf))["ram_peak_bytes"]
    assert peak["value"] > (lab.gguf / "model.gguf").stat().st_size


def test_unknown_architecture_is_one_line(lab, tmp_path):
    import shutil

    odd = shutil.copytree(lab.tiny, tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(
        json.dumps(config | {"architectures": ["NeverHeardOfForCausalLM"]})
    )
    with pytest.raises(UserError, match="doesn't know the architecture NeverHeardOfForCausalLM"):
        lab.run(convert, {"type": "f16"}, model=odd, toolchain=lab.tools)


def test_refused_tokenizer_is_one_line(lab, tmp_path):
    import shutil

    from tokenizers import Tokenizer, models, pre_tokenizers

    odd = shutil.copytree(lab.tiny, tmp_path / "odd")
    (odd / "tokenizer.model").unlink()
    words = {f"w{i}": i for i in range(2048)}
    home = Tokenizer(models.BPE(vocab=words, merges=[]))
    home.pre_tokenizer = pre_tokenizers.Whitespace()
    home.save(str(odd / "tokenizer.json"))
    (odd / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(UserError, match="tokenizer") as caught:
        lab.run(convert, {"type": "f16"}, model=odd, toolchain=lab.tools)
    assert "\n" not in str(caught.value)


def test_a_smaller_kv_cache_is_measured_as_such(lab):
    """Quality, speed and memory at a cache type: q4_0 does more damage than q8_0, and the file is
    the same.
    """
    base = lab.run(
        baseline,
        {"context": 128, "tokens": 1024, "top_k": 64},
        gguf=lab.gguf,
        text=lab.root / "text",
    )

    def kld(**cache):
        out = lab.run(quality, {"seed": 0} | cache, gguf=lab.gguf, baseline=base)
        return {
            m.metric: m.value
            for m in parse_measurements(json.loads((out / "measurements.json").read_text()))
        }["kld_mean"]

    plain, eight, four = kld(), kld(kv="q8_0"), kld(kv="q4_0")
    assert plain < 1e-6
    assert plain < eight < four
    for probe, params in (
        (memory, {"context": 128}),
        (speed, {"prompt": 32, "generate": 4, "repeat": 2}),
    ):
        out = lab.run(probe, params | {"kv": "q8_0"}, gguf=lab.gguf)
        assert all(m["value"] > 0 for m in json.loads((out / "measurements.json").read_text()))
