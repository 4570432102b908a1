"""Compensated rounding: every grid against the gguf package, the algorithm against brute force,
files on a real model.
"""

import json
import os
import shutil
import signal
import time

import gguf
import numpy as np
import pytest
import torch
from blocks import KINDS, random_blocks
from conftest import ROOT
from stage_lab import TEXT, Lab

from sintra.core.errors import Infeasible
from sintra.core.recipe import FILE_TYPES
from sintra.core.stage import Context
from sintra.formats.runtime import blocks as blocks_module
from sintra.formats.runtime.llama_cpp import LlamaModel, noise_windows
from sintra.stages import convert, curvature
from sintra.stages.rounding import on_cpu, on_gpu
from sintra.stages.rounding.compensate import compensate
from sintra.stages.rounding.damped import CompensationOptions, DampedHessian, damped_hessian
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.tensors import dequantized, read_tensors, writable_tensors
from sintra.stages.rounding.whole_file import compensate_file


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("rounding"), tiny, toolchain)


@pytest.fixture(scope="module")
def measured(lab):
    return lab.run(curvature, {"tokens": 1024, "context": 128, "random": 0.2}, **given(lab))


def given(lab):
    return {"model": lab.tiny, "gguf": lab.gguf, "text": lab.root / "text"}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_reads_what_gguf_reads_and_writes_what_it_read(name):
    grid = GRIDS[name]
    assert (grid.block, grid.size) == gguf.GGML_QUANT_SIZES[KINDS[name]]
    raw = random_blocks(grid, 64)
    assert np.allclose(
        gguf.quants.dequantize(raw, KINDS[name]), grid.weights(raw), rtol=1e-6, atol=1e-7
    )
    copy = np.zeros_like(raw)
    grid.write_scales(copy, grid.scales(raw))
    grid.write_codes(copy, grid.codes(raw))
    assert (copy == raw).all()


def problem(grid, seed=0):
    """Weights (8, 512), correlated inputs' H, and a nearest rounding of ours onto scales of another
    draw.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2048, 64)) @ rng.normal(size=(64, 512)) + rng.normal(size=(2048, 512))
    h = (x.T @ x / len(x)).astype(np.float32)
    blocks = random_blocks(grid, 8 * 512 // grid.block, seed)
    w = grid.weights(blocks).reshape(8, 512)
    return (w + rng.normal(0, w.std() / 20, w.shape)).astype(np.float32), blocks, h


def rounded(w, blocks, grid, h, **options):
    chosen = CompensationOptions(**options)
    return compensate(w, [blocks], grid, DampedHessian(h, chosen), chosen)


@pytest.mark.parametrize("name", GRIDS)
def test_processor_and_gpu_go_the_same_way(name):
    """The GPU's code on this processor; 70 rows: more than a tile, and no multiple of one."""
    grid = GRIDS[name]
    w, blocks, h = problem(grid, 3)
    rows = np.tile(w, (9, 1))[:70] * np.linspace(0.9, 1.1, 70, dtype=np.float32)[:, None]
    starts = [np.tile(blocks, (9, 1))[: 70 * 512 // grid.block]]
    hessian = DampedHessian(h, CompensationOptions())
    one, other = (
        way(torch.from_numpy(rows), starts, grid, hessian, CompensationOptions())
        for way in (on_cpu.round_rows, on_gpu.round_rows)
    )
    assert one[1] == pytest.approx(other[1], rel=1e-5)
    assert one[2] == pytest.approx(other[2], rel=1e-3)
    assert np.mean(one[0] == other[0]) > 0.98, "bytes but for ties that fell differently"


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    grid = GRIDS["Q4_0"]
    w, blocks, h = problem(grid, 4)
    rows = np.tile(w, (64, 1)) + np.arange(512, dtype=np.float32)[:, None] * 1e-5
    starts = np.tile(blocks, (64, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = rounded(rows, starts, grid, h).blocks
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    single = rounded(rows[:64], starts[: 64 * 512 // grid.block], grid, h).blocks
    assert (made[: len(single)] == single).all()


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_written_has_the_error_that_is_claimed(name):
    grid = GRIDS[name]
    w, blocks, h = problem(grid)
    made, before, after = rounded(w, blocks, grid, h)
    e = torch.from_numpy(w - gguf.quants.dequantize(made, KINDS[name]).reshape(w.shape))
    true = float(((e @ damped_hessian(h, 0.01)) * e).sum())
    assert true == pytest.approx(after, rel=1e-2)
    assert after <= before
    assert made.shape == blocks.shape


def test_a_sweep_never_raises_the_error():
    grid = GRIDS["Q4_K"]
    w, blocks, h = problem(grid, 1)
    errors = [rounded(w, blocks, grid, h, sweeps=n)[2] for n in range(4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < errors[0]


def test_lazy_columns_change_nothing_but_the_last_digits():
    grid = GRIDS["Q4_0"]
    w, blocks, h = problem(grid, 2)
    one, many = (rounded(w, blocks, grid, h, sweeps=0, lazy=n)[2] for n in (512, 32))
    assert one == pytest.approx(many, rel=1e-2)


def test_no_input_at_all_is_nearest():
    grid = GRIDS["Q5_0"]
    w, blocks, _ = problem(grid)
    _, before, after = rounded(w, blocks, grid, np.zeros((512, 512), np.float32))
    assert after <= before


def test_block_by_block_is_what_the_whole_model_sees(lab, measured):
    import transformers

    of = json.loads((measured / "curvature.json").read_text())
    assert of["unmapped"] == []
    assert of["tokens"] == 1280, "ten windows, of which eight are text"
    net = transformers.AutoModelForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32)
    tokens = LlamaModel(lab.gguf / "model.gguf", 128, 1, vocab_only=True)
    text = tokens.windows(TEXT, 1024)
    both = np.concatenate([text, noise_windows(8, 128, 0.2, tokens.normal_tokens())])
    tokens.close()
    seen = {}
    for name, module in net.named_modules():
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0]}) if args else None
        )
    with torch.no_grad():
        net(input_ids=torch.from_numpy(both).long())
    pairs = {
        "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
        "model.layers.1.self_attn.k_proj": "blk.1.attn_k",
        "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
        "lm_head": "output",
    }
    with np.load(measured / "importance.npz") as matrix:
        assert set(matrix.files) == set(of["tensors"])
        for module, tensor in pairs.items():
            x = seen[module].reshape(-1, seen[module].shape[-1])
            found = np.load(measured / f"{of['tensors'][tensor + '.weight']:03}.npy")
            assert np.allclose(found, (x.T @ x / len(x)).numpy(), rtol=1e-3, atol=1e-5)
            assert np.allclose(
                matrix[tensor + ".weight"], x[:1024].square().mean(0).numpy(), rtol=1e-3, atol=1e-6
            )
    assert of["tensors"]["blk.0.attn_q.weight"] == of["tensors"]["blk.0.attn_v.weight"]
    assert of["tensors"]["blk.0.ffn_gate.weight"] == of["tensors"]["blk.0.ffn_up.weight"]
    assert of["tensors"]["blk.0.attn_q.weight"] != of["tensors"]["blk.1.attn_q.weight"]


@pytest.fixture(scope="module")
def mixture(lab, tmp_path_factory):
    """A two-block Mixtral of four experts, converted, and its curvature."""
    import make
    import transformers

    folder = tmp_path_factory.mktemp("mixtral")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        sliding_window=None,
    )
    shutil.copy(ROOT / "models" / "fable" / "tokenizer.model", folder)
    make.save(transformers.MixtralForCausalLM(config), folder, [])
    base = lab.run(convert, {"type": "f16"}, model=folder, toolchain=lab.tools)
    inputs = {"model": folder, "gguf": base, "text": lab.root / "text"}
    return (
        folder,
        base,
        lab.run(curvature, {"tokens": 1024, "context": 128, "random": 0.2}, **inputs),
    )


def test_every_expert_has_its_own_curvature(lab, mixture):
    import transformers

    folder, base, measured = mixture
    of = json.loads((measured / "curvature.json").read_text())
    assert of["unmapped"] == []
    gate, up, down = (of["tensors"][f"blk.1.ffn_{p}_exps.weight"] for p in ("gate", "up", "down"))
    assert gate == up
    assert len({*gate, *down}) == 8
    assert not blocks_module.BlockModel(folder).whole, (
        "single experts are merged while a block is loaded"
    )
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = LlamaModel(base / "model.gguf", 128, 1, vocab_only=True)
    both = np.concatenate(
        [tokens.windows(TEXT, 1024), noise_windows(8, 128, 0.2, tokens.normal_tokens())]
    )
    tokens.close()
    seen = {}
    bank = net.model.layers[1].mlp.experts
    bank.register_forward_pre_hook(lambda _, args: seen.update(x=args[0], chosen=args[1]))
    with torch.no_grad():
        net(input_ids=torch.from_numpy(both).long())
        own = seen["x"][(seen["chosen"] == 2).any(-1)]
        a, b = (own @ bank.gate_up_proj[2].T).chunk(2, -1)
        made = torch.nn.functional.silu(a) * b
    for number, x in ((gate[2], own), (down[2], made)):
        found = np.load(measured / f"{number:03}.npy")
        assert np.allclose(
            found, (x.T @ x / len(x)).numpy(), rtol=1e-2, atol=1e-5 * float(x.square().mean())
        )


def test_experts_are_rounded_too(lab, mixture):
    _, base, measured = mixture
    made = lab.quantize("Q4_0", base=base, importance=measured, curvature=measured)
    rounding = json.loads((made / "layout.json").read_text())["rounding"]
    assert {n for n in rounding["compensated"] if "exps" in n} == {
        f"blk.{i}.ffn_{p}_exps.weight" for i in range(2) for p in ("gate", "up", "down")
    }
    assert all(after < before for before, after in rounding["compensated"].values())


def test_a_killed_curvature_goes_on_at_its_block(lab, measured, tmp_path, monkeypatch):
    params = {"tokens": 1024, "context": 128, "random": 0.2}
    (tmp_path / "out").mkdir()

    class Dying(Context):
        def say(self, text):
            raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt, match="block 1 of 2"):
        curvature.run(Dying(params, given(lab), tmp_path / "out", {}, tmp_path / "keep", 1))
    assert json.loads((tmp_path / "keep" / "progress.json").read_text())["blocks"] == 1
    loaded = []
    monkeypatch.setattr(
        blocks_module.BlockModel,
        "load",
        lambda self, n, old=blocks_module.BlockModel.load: loaded.append(n) or old(self, n),
    )
    curvature.run(Context(params, given(lab), tmp_path / "out", {}, tmp_path / "keep", 1))
    assert loaded == [1]
    for path in measured.glob("*.npy"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q3_K_S", "Q4_0"])
def test_only_payload_differs(lab, measured, kind):
    plain, ours = lab.quantize(kind), lab.quantize(kind, curvature=measured)
    a, b = (json.loads((f / "layout.json").read_text()) for f in (plain, ours))
    assert a["tensors"] == b["tensors"]
    rounding = b["rounding"]
    assert all(after < before for before, after in rounding["compensated"].values())
    old, new = (gguf.GGUFReader(f / "model.gguf") for f in (plain, ours))
    start = old.data_offset
    raw = [(f / "model.gguf").read_bytes() for f in (plain, ours)]
    assert raw[0][:start] == raw[1][:start]
    assert len(raw[0]) == len(raw[1])
    for x, y in zip(old.tensors, new.tensors, strict=True):
        assert (x.data.tobytes() == y.data.tobytes()) == (x.name not in rounding["compensated"])


def test_a_type_that_needs_the_importance_matrix_has_one_start(lab, measured):
    """llama.cpp can't make IQ2_XXS without a matrix, so there is no second file to start from."""
    made = lab.quantize("IQ2_XXS", [("ffn_up", "Q4_K")], importance=measured, curvature=measured)
    rounding = json.loads((made / "layout.json").read_text())["rounding"]
    assert {n for n in rounding["compensated"] if "ffn_up" in n} == {
        "blk.0.ffn_up.weight",
        "blk.1.ffn_up.weight",
    }
    assert not list(made.parent.glob("*.plain.gguf"))


def test_llama_cpp_reads_what_was_written(lab, measured, tmp_path):
    """Every new type in one file: its logits are those of the weights that it stands for."""
    tensors = [
        ("blk.0.attn_q", "IQ2_XXS"),
        ("blk.0.attn_k", "IQ2_XS"),
        ("blk.0.ffn_up", "IQ2_S"),
        ("blk.0.ffn_down", "IQ3_XXS"),
        ("blk.1.attn_q", "IQ3_S"),
        ("blk.1.ffn_up", "MXFP4"),
        ("blk.1.ffn_down", "NVFP4"),
    ]
    ours = lab.quantize("Q8_0", tensors, importance=measured, curvature=measured)
    layout = json.loads((ours / "layout.json").read_text())
    compensated = layout["rounding"]["compensated"]
    for name, kind in tensors:
        assert lab.types(ours)[f"{name}.weight"] == kind
        before, after = compensated[f"{name}.weight"]
        assert after < 0.9 * before
    exact = shutil.copy(lab.gguf / "model.gguf", tmp_path / "exact.gguf")
    stored = read_tensors(ours / "model.gguf")
    with writable_tensors(exact) as copies:
        for name, copy in copies.items():
            if copy.data.dtype == np.float16:
                copy.data[:] = dequantized(stored[name]).numpy().reshape(copy.data.shape)
    told = []
    for path in (ours / "model.gguf", exact, lab.gguf / "model.gguf"):
        model = LlamaModel(path, 128, 1)
        told.append(model.log_probs(model.windows(TEXT, 256)[0], 0))
        model.close()
    own, meant, original = told
    assert np.abs(own - meant).mean() < 0.1 * np.abs(own - original).mean()


def test_an_embedding_gets_equal_weights_where_ggml_needs_some(lab, measured):
    """No calibration measures it; without weights ggml ends the process."""
    made = lab.quantize("IQ2_XXS", [(".*", "IQ2_XXS")], importance=measured)
    assert lab.types(made)["token_embd.weight"] == "IQ2_XXS"
    assert set(lab.types(made).values()) == {"IQ2_XXS", "F32"}
    with pytest.raises(Infeasible, match="IQ2_XS needs an importance matrix"):
        lab.quantize("Q8_0", [("token_embd", "IQ2_XS")])


def test_a_4_bit_float_is_a_uniform_type(lab, measured):
    for kind in ("MXFP4", "NVFP4"):
        made = lab.quantize(FILE_TYPES.get(kind, kind), [(".*", kind)], importance=measured)
        assert set(lab.types(made).values()) == {kind, "F32"}


def test_a_tied_output_is_proven_from_the_embedding(tmp_path, toolchain):
    """fable_mini, whose checkpoint holds no output of its own."""
    lab = Lab(tmp_path, ROOT / "models" / "fable_mini", toolchain)
    made = json.loads(
        (
            lab.run(curvature, {"tokens": 512, "context": 128, "random": 0.2}, **given(lab))
            / "curvature.json"
        ).read_text()
    )
    assert not made["unmapped"]
    names = {
        t.name
        for t in gguf.GGUFReader(lab.gguf / "model.gguf").tensors
        if len(t.shape) > 1 and "_norm" not in t.name
    }
    assert names - {"token_embd.weight"} <= set(made["tensors"])


def test_a_killed_run_goes_on_behind_its_last_tensor(lab, measured, tmp_path):
    source = lab.gguf / "model.gguf"
    plain = lab.quantize("Q4_K_S") / "model.gguf"
    whole, part = tmp_path / "whole.gguf", tmp_path / "part.gguf"
    shutil.copy(plain, whole)
    shutil.copy(plain, part)
    compensate_file(whole, source, measured, tmp_path / "a", lambda _: None)

    class Killed(Exception):
        pass

    lines = []

    def dies(line):
        lines.append(line)
        if len(lines) == 4:
            raise Killed

    with pytest.raises(Killed):
        compensate_file(part, source, measured, tmp_path / "b", dies)
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").iterdir()}
    assert len(finished) == 4
    shutil.copy(plain, part)  # the worker's folder is gone; what was finished is not
    compensate_file(part, source, measured, tmp_path / "b", lambda _: None)
    assert all(p.stat().st_mtime_ns == at for p, at in finished.items())
    assert part.read_bytes() == whole.read_bytes()


def test_a_worker_killed_amid_the_tensors_goes_on(project, tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        'recipes:\n- {"type": "Q4_K_S", "importance": true, "rounding": "compensated"}\n'
    )
    args = (
        "optimize",
        "hardware=jetson_nano",
        f"model={tiny}",
        "probe=quick",
        "model.check=false",
        "goal.max_kld=9",
        "texts.second=null",
        "planner=replay",
        f"planner.replay={recipe}",
    )
    whole = project.doit(*args)
    assert whole.returncode == 0, whole.stderr
    winner = project.result()["winner"]["artifact"]["sha256"]
    entry = next(
        p
        for p in (project.root / "cache" / "ac").glob("*/*.json")
        if json.loads(p.read_text())["step"].startswith("quantize:")
    )
    entry.unlink()
    keep = project.root / "cache" / "downloads" / entry.stem
    running = project.start(*args)
    deadline = time.monotonic() + 120
    while (
        len(list(keep.glob("*.weight.npz"))) < 4
        and running.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = {p: p.stat().st_mtime_ns for p in keep.glob("*.weight.npz")}
    assert 4 <= len(finished) < 15, "killed with some tensors rounded and some not"
    assert not entry.exists()
    lines = (project.root / "sitecustomize.py", tmp_path / "seen")
    lines[0].write_text(
        "import pathlib, sys\nif 'sintra.build.worker' in ' '.join(sys.orig_argv):\n    found = "
        f"pathlib.Path({str(keep)!r}).glob('*.weight.npz')\n    open({str(lines[1])!r}, "
        f"'a').write(''.join(f'{{p.name}} {{p.stat().st_mtime_ns}}\\n' for p in found))\n"
    )
    done = project.doit(*args, PYTHONPATH=str(project.root))
    assert done.returncode == 0, done.stderr
    assert set(lines[1].read_text().splitlines()) >= {
        f"{p.name} {at}" for p, at in finished.items()
    }
    assert project.built(done) == ["quantize:tiny-Q4_K_S-imatrix-compensated"]
    assert project.result()["winner"]["artifact"]["sha256"] == winner, "the identical file"


def test_stock_llama_cpp_python_answers_from_it(tmp_path, toolchain):
    from llama_cpp import Llama

    lab = Lab(tmp_path, ROOT / "models" / "fable_mini", toolchain)
    found = lab.run(curvature, {"tokens": 2048, "context": 128, "random": 0.2}, **given(lab))
    ours = lab.quantize("Q4_K_M", importance=found, curvature=found)
    told = {}
    for folder in (lab.gguf, ours):
        model = Llama(str(folder / "model.gguf"), n_ctx=128, n_threads=1, verbose=False)
        told[folder] = model.create_completion(
            "Nora had five apples. Nora gave two of them to", max_tokens=8, temperature=0
        )
        model.close()
    words = [t["choices"][0]["text"].split() for t in told.values()]
    assert words[0][0].strip(".,").istitle(), "someone's name"
    assert words[0][:1] == words[1][:1]
    assert told[ours]["usage"]["completion_tokens"] == 8
