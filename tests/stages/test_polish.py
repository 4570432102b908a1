"""Polishing: every grid, files on a real model, recipes, the planner's last candidates."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from blocks import KINDS, random_blocks
from conftest import ROOT
from searches import Run, study
from stage_lab import TEXT, Lab
from worlds import World

from sintra.core.canonical import canonical
from sintra.core.errors import Infeasible
from sintra.core.recipe import Recipe, variant_slug
from sintra.core.stage import Context
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import open_model
from sintra.planning.solver.finishing import LEARNED, POLISHED, REFINED
from sintra.stages import curvature, polish, quantize, refine
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.learned import (
    LearnedBlock,
    LearningSettings,
    learn_block,
    relative_error,
)
from sintra.stages.rounding.learned_matrix import LearnedMatrix
from sintra.stages.rounding.sequential import InputMoments
from sintra.stages.rounding.tensors import writable_tensors
from sintra.stages.rounding.tunable import TunableMatrix

UNSEEN = (ROOT / "models" / "texts" / "search.txt").read_text()[len(TEXT) : 3 * len(TEXT)]
LAYOUT = ("tensors", "shape", "architecture", "context")
LONGER = (ROOT / "models" / "texts" / "calibration.txt").read_text()
PARAMS = {"tokens": 8192, "context": 128, "epochs": 2.0, "seed": 0}


@pytest.mark.parametrize("name", GRIDS)
def test_a_matrix_starts_as_the_file_has_it_and_is_written_as_it_stands(name):
    grid = GRIDS[name]
    raw = random_blocks(grid, 64)
    exact = torch.from_numpy(grid.weights(raw)).reshape(8, -1)
    matrix = TunableMatrix(raw, grid, tuple(exact.shape))
    assert torch.allclose(matrix.weight(), exact, rtol=1e-6, atol=1e-7)
    assert (matrix.pack() == raw).all()
    halves = matrix.of_halves(matrix.d, matrix.m)
    with torch.no_grad():
        for x in halves:
            x *= 1.01
    made = matrix.pack()
    assert (made != raw).any() == bool(halves), "a 4-bit float has scales of few values"
    assert (grid.codes(made) == grid.codes(raw)).all()
    read = gguf.quants.dequantize(made, KINDS[name]).reshape(exact.shape)
    assert np.allclose(read, matrix.weight().detach().numpy(), rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("polish"), tiny, toolchain)


@pytest.fixture(scope="module")
def rounded(lab):
    """Every kind of grid in one file, with compensated rounding."""
    kinds = {
        "attn_q": "Q4_K",
        "attn_k": "Q3_K",
        "attn_v": "Q5_K",
        "attn_output": "IQ4_XS",
        "ffn_up": "Q4_0",
        "ffn_gate": "Q5_1",
        "0.ffn_down": "IQ4_NL",
        "1.ffn_down": "Q6_K",
        "token_embd": "Q8_0",
        "output.weight": "Q2_K",
    }
    known = lab.run(
        curvature,
        {"tokens": 1024, "context": 128, "random": 0.2},
        model=lab.tiny,
        gguf=lab.gguf,
        text=lab.root / "text",
    )
    return lab.quantize("Q2_K", kinds.items(), curvature=known)


def polished(lab, variant, **params):
    return lab.run(
        polish,
        {**PARAMS, **params},
        gguf=variant,
        source=lab.gguf,
        model=lab.tiny,
        text=longer(lab),
    )


def longer(lab):
    """More text than other stages are given: on little of it random weights get no better on what
    is held out.
    """
    text = lab.root / "longer"
    text.mkdir(exist_ok=True)
    (text / "text.txt").write_text(LONGER)
    return text


@pytest.fixture(scope="module")
def made(lab, rounded):
    return polished(lab, rounded)


def kld(lab, folder):
    """Mean KLD to the 16-bit file over text that polishing has not seen."""
    with (
        open_model(lab.gguf / "model.gguf", 128, 1) as exact,
        open_model(folder / "model.gguf", 128, 1) as variant,
    ):
        found = []
        for window in exact.windows(UNSEEN, 2048):
            p, q = exact.log_probs(window, 0).astype(np.float64), variant.log_probs(window, 0)
            found.append((np.exp(p) * (p - q)).sum(1).mean())
    return np.mean(found)


def test_the_layout_is_the_same_and_only_payload_differs(lab, rounded, made):
    before, after = (read_layout(f / "model.gguf") for f in (rounded, made))
    assert all(before[k] == after[k] for k in LAYOUT)
    one, two = (gguf.GGUFReader(f / "model.gguf") for f in (rounded, made))
    assert [t.data_offset for t in one.tensors] == [t.data_offset for t in two.tensors]
    start = one.data_offset
    raw = [(f / "model.gguf").read_bytes() for f in (rounded, made)]
    assert len(raw[0]) == len(raw[1])
    assert raw[0][:start] == raw[1][:start]
    changed = {
        a.name for a, b in zip(one.tensors, two.tensors, strict=True) if (a.data != b.data).any()
    }
    assert changed == {t.name for t in one.tensors}


def test_it_is_nearer_to_the_original_on_text_it_has_not_seen(lab, rounded, made):
    known = json.loads((made / "layout.json").read_text())
    before, after = known["polish"]["held_out"]
    assert after < before
    assert known["rounding"] == json.loads((rounded / "layout.json").read_text())["rounding"]
    assert kld(lab, made) < kld(lab, rounded)


def test_the_student_computes_what_llama_cpp_computes(lab, made):
    """The held-out KLD that is claimed, computed anew from the file by llama.cpp on the held-out
    windows.
    """
    claimed = json.loads((made / "layout.json").read_text())["polish"]["held_out"][1]
    with (
        open_model(lab.gguf / "model.gguf", 128, 1) as exact,
        open_model(made / "model.gguf", 128, 1) as variant,
    ):
        found = []
        for window in exact.windows(LONGER, PARAMS["tokens"])[::10]:
            p, q = exact.log_probs(window, 63).astype(np.float64), variant.log_probs(window, 63)
            found.append((np.exp(p) * (p - q)).sum(1).mean())
    assert np.exp(np.log(found).mean()) == pytest.approx(claimed, rel=0.1)


def refined(lab, variant, steps=0):
    """On more text than polishing has: a layer's 512 columns are to be told apart from it."""
    params = {"tokens": 16384, "context": 128, "random": 0.2, "steps": steps}
    return lab.run(refine, params, gguf=variant, source=lab.gguf, model=lab.tiny, text=longer(lab))


@pytest.fixture(scope="module")
def sequel(lab, rounded):
    return refined(lab, rounded)


def test_rounding_in_sequence_changes_matrices_alone_and_is_nearer(lab, rounded, sequel):
    before, after = (read_layout(f / "model.gguf") for f in (rounded, sequel))
    assert all(before[k] == after[k] for k in LAYOUT)
    one, two = (gguf.GGUFReader(f / "model.gguf") for f in (rounded, sequel))
    changed = {
        a.name for a, b in zip(one.tensors, two.tensors, strict=True) if (a.data != b.data).any()
    }
    told = json.loads((sequel / "layout.json").read_text())["refined"]
    assert (
        changed
        == set(told)
        == {t.name for t in one.tensors if len(t.shape) > 1} - {"token_embd.weight"}
    )
    assert kld(lab, sequel) < kld(lab, rounded)
    assert (refined(lab, rounded) / "model.gguf").read_bytes() == (
        sequel / "model.gguf"
    ).read_bytes()


class KilledError(Exception):
    """What a kill is to a process."""


class Killed(Context):
    """Breaks off behind the first block."""

    def say(self, text):
        if text.startswith("block 1"):
            raise KilledError


class Heard(Context):
    """Keeps what is said beside the artifact."""

    def say(self, text):
        with (self.keep / "said").open("a") as file:
            file.write(text.partition(",")[0] + "\n")


def test_refining_killed_amid_a_block_goes_on_and_makes_the_same_file(lab, rounded, sequel):
    params = {"tokens": 16384, "context": 128, "random": 0.2, "steps": 0}
    inputs = {"gguf": rounded, "source": lab.gguf, "model": lab.tiny, "text": longer(lab)}
    keep, out = lab.root / "killed", lab.root / "goes-on"
    out.mkdir()
    with pytest.raises(KilledError):
        refine.run(Killed(params, inputs, out, {}, keep, 1))
    with writable_tensors(keep / "model.gguf") as tensors:  # as if the next block had been begun
        tensors["blk.1.attn_q.weight"].data[:] = 0
    np.load(keep / "exact.npy", mmap_mode="r+")[:] = 0
    refine.run(Heard(params, inputs, out, {}, keep, 1))
    assert (keep / "said").read_text() == "block 2 of 2\n"
    for name in ("model.gguf", "layout.json"):
        assert (out / name).read_bytes() == (sequel / name).read_bytes()


@pytest.fixture(scope="module")
def learned(lab, rounded):
    return refined(lab, rounded, steps=5)


def test_blocks_that_got_no_better_are_left_alone(lab, sequel, learned):
    """Five steps can't move a code over the half of a level."""
    before, after = (read_layout(f / "model.gguf") for f in (sequel, learned))
    assert all(before[k] == after[k] for k in LAYOUT)
    said = json.loads((learned / "layout.json").read_text())["learned"]
    assert len(said) == 2
    one, two = (
        {t.name: t.data for t in gguf.GGUFReader(f / "model.gguf").tensors}
        for f in (sequel, learned)
    )
    first = [n for n in one if n.startswith("blk.0.")]
    assert all((one[n] == two[n]).all() for n in first) == (not said[0][1] < said[0][0])
    for name in first:
        kind = next(
            t.tensor_type for t in gguf.GGUFReader(sequel / "model.gguf").tensors if t.name == name
        )
        if grid := GRIDS.get(kind.name):
            codes = [grid.codes(np.array(d).reshape(-1, grid.size)) for d in (one[name], two[name])]
            assert (codes[0] == codes[1]).all()


def test_a_block_learns_its_rounding():
    """A network of two layers, its codes to the nearest: what learning claims is what the written
    blocks do.
    """
    torch.manual_seed(0)
    grid, width = GRIDS["Q4_0"], 64
    exact = [torch.randn(width, width) / 8, torch.randn(width, width) / 8]
    few = torch.randn(40, 64, 12) @ torch.randn(12, width) / 3  # so that errors have where to go
    hidden = (few + 0.05 * torch.randn(40, 64, width)).numpy()

    def run(weights, x):
        return x + torch.nn.functional.silu(x @ weights["a"].T) @ weights["b"].T

    def rounded(w):
        return gguf.quants.quantize(w.numpy(), KINDS["Q4_0"]).reshape(-1, grid.size)

    goal = run(dict(zip("ab", exact, strict=True)), torch.from_numpy(hidden)).numpy()
    parts = {
        n: LearnedMatrix(rounded(w), grid, (width, width)) for n, w in zip("ab", exact, strict=True)
    }
    block = LearnedBlock(parts, {}, {})
    before, after = learn_block(block, run, hidden, goal, LearningSettings(300))
    assert after < 0.8 * before
    written = {
        n: torch.from_numpy(gguf.quants.dequantize(m.pack(), KINDS["Q4_0"]).reshape(width, width))
        for n, m in parts.items()
    }
    held = [
        float(
            relative_error(
                run(written, torch.from_numpy(hidden[i : i + 1])), torch.from_numpy(goal[i : i + 1])
            )
        )
        for i in range(0, 40, 10)
    ]
    assert np.mean(held) == pytest.approx(after, rel=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_codes_that_move_are_written_and_read_back(name):
    grid = GRIDS[name]
    raw = random_blocks(grid, 64)
    exact = torch.from_numpy(grid.weights(raw)).reshape(8, -1)
    matrix = LearnedMatrix(raw, grid, tuple(exact.shape))
    assert torch.allclose(matrix.weight(), exact, rtol=1e-6, atol=1e-7)
    assert (matrix.pack() == raw).all()
    if grid.codebook is None:
        matrix.position += torch.randint(-1, 2, matrix.position.shape).numpy()
    with torch.no_grad():
        for x in matrix.of_halves(matrix.by_d, matrix.by_m):
            x += 0.02
    made = matrix.pack()
    assert (made != raw).any()
    moved = grid.codes(made) - grid.codes(raw)
    if grid.codebook:
        assert not moved.any(), "one code alone would leave the codebook"
    else:
        assert set(np.unique(moved)) <= {-1, 0, 1}
        assert 0.3 < (moved != 0).mean() < 0.8
    read = gguf.quants.dequantize(made, KINDS[name]).reshape(exact.shape)
    assert np.allclose(read, matrix.weight().detach().numpy(), rtol=1e-6, atol=1e-6)


class Straight:
    """The same matrix in torch alone: autograd through all of it, torch's Adam."""

    def __init__(self, raw, grid, shape):
        scales = grid.scales(raw)
        self.first, self.shape = torch.from_numpy(grid.codes(raw)).float(), shape
        self.levels = torch.tensor(grid.levels, dtype=torch.float32)
        self.slopes = torch.from_numpy(np.gradient(np.array(grid.levels, np.float32)))
        self.sub, self.sub_min = (torch.from_numpy(x).float() for x in (scales.sub, scales.sub_min))
        self.d, self.m = torch.from_numpy(scales.d), torch.from_numpy(scales.m)
        self.position = torch.zeros_like(self.first, requires_grad=True)
        self.by_d, self.by_m = (torch.zeros_like(x, requires_grad=True) for x in (self.d, self.m))

    def half(self, x):
        return x + (x.half().float() - x).detach()

    def weight(self):
        code = (self.first + self.position.detach()).round().clamp(0, len(self.levels) - 1).long()
        level = self.levels[code] + self.slopes[code] * (self.position - self.position.detach())
        scale = self.half(self.d * (1 + self.by_d))[:, None] * self.sub
        offset = self.half(self.m * (1 + self.by_m))[:, None] * self.sub_min
        shaped = level.reshape(*scale.shape, -1)
        return (scale[..., None] * shaped + offset[..., None]).reshape(self.shape)


@pytest.mark.parametrize("name", GRIDS)
def test_codes_and_scales_learn_as_autograd_and_adam_have_it(name):
    torch.manual_seed(0)
    grid, rate, decay = GRIDS[name], 0.2, (0.9, 0.99)
    raw = random_blocks(grid, 16)
    matrix = LearnedMatrix(raw, grid, (8, 2 * grid.block))
    known = Straight(raw, grid, matrix.shape)
    adam = torch.optim.Adam([known.position], rate, betas=decay, eps=1e-12)
    x, goal = torch.randn(4, 2 * grid.block), torch.randn(4, 8)
    for step in range(6):
        for each in (matrix, known):
            (x @ each.weight().T - goal).square().sum().backward()
        matrix.collect_gradients()
        matrix.move_codes(rate, decay)
        for mine, theirs in ((matrix.by_d, known.by_d), (matrix.by_m, known.by_m)):
            size = theirs.grad.abs().max()
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-3, atol=float(1e-4 * size))
            theirs.grad = None
        adam.step()
        adam.zero_grad()
        if grid.codebook is not None:
            assert not matrix.position.any()
            return
        close = np.isclose(matrix.position, known.position.detach().numpy(), atol=1e-3)
        assert close.mean() > 0.999, (step, close.mean())


def test_what_is_rounded_is_what_comes_nearest_from_other_inputs():
    torch.manual_seed(0)
    w, x = torch.randn(5, 8), torch.randn(1, 400, 8)
    other = x @ (torch.eye(8) + 0.3 * torch.randn(8, 8)) + 0.1 * torch.randn(1, 400, 8)
    sums = InputMoments()
    for a, b in zip(x.split(100, 1), other.split(100, 1), strict=True):
        sums.add(a, b)
    best = torch.linalg.lstsq(other[0], x[0] @ w.T).solution.T
    found = sums.target(w)

    def error(v):
        return float((x[0] @ w.T - other[0] @ v.T).square().mean())

    assert error(best) <= error(found) <= 1.1 * error(best) < 0.5 * error(w)
    same = InputMoments()
    same.add(x, x)
    assert torch.equal(same.target(w), w), "with the same inputs the weights themselves"


def test_the_same_again_is_the_same_file(lab, rounded, made):
    again = polished(lab, rounded)
    assert (again / "model.gguf").read_bytes() == (made / "model.gguf").read_bytes()
    other = polished(lab, rounded, seed=1)
    assert (other / "model.gguf").read_bytes() != (made / "model.gguf").read_bytes()


def test_what_gets_no_better_is_left_as_it_was(lab, capsys):
    base = lab.run(quantize, {"type": "F16", "tensors": [], "dropped": []}, gguf=lab.gguf)
    left = polished(lab, base, epochs=0.1)
    assert json.loads((left / "layout.json").read_text())["polish"]["kept"] == 0
    assert (left / "model.gguf").read_bytes() == (base / "model.gguf").read_bytes()
    assert "the file is left as it was" in capsys.readouterr().err


def test_another_checkpoint_is_refused(lab, rounded, tmp_path_factory):
    from conftest import make_llama

    other = make_llama(tmp_path_factory.mktemp("other") / "m", seed=1)
    with pytest.raises(
        Infeasible, match=r"the rows of token_embd.weight aren't those of model.embed_tokens.weight"
    ):
        lab.run(polish, PARAMS, gguf=rounded, source=lab.gguf, model=other, text=longer(lab))


def test_a_model_too_large_for_the_machine_is_refused(lab, rounded):
    shape = {"parameters": 8 * 10**9, "layers": 32, "width": 4096, "vocabulary": 128_256}
    assert 160e9 < polish.peak_bytes(shape, 512) < 180e9
    with pytest.raises(Infeasible, match="polishing trains the whole model in float32"):
        polish.check_memory({**shape, "parameters": 10**15}, 512)


def test_recipes_without_it_are_what_they_were():
    plain = Recipe("Q4_K_M", True, (), (("a", "Q4_K"), (".*", "Q2_K")), "compensated")
    assert "polish" not in canonical(plain.as_json())
    assert variant_slug(plain) == "mix-86f12755"
    polish = Recipe(**{**plain.__dict__, "polish": True})
    assert variant_slug(polish) == "mix-86f12755-polished"
    assert Recipe.of(polish.as_json()) == polish != plain == Recipe.of(plain.as_json())
    assert variant_slug(Recipe("Q2_K", kv="q8_0", polish=True)) == "Q2_K-polished-kv_q8_0"


class Polishing(Run):
    """A world in which polishing leaves `left` of the KLD."""

    left = 0.5

    def kld(self, recipe):
        return super().kld(recipe) * (self.left if recipe.finished else 1)

    def polished(self):
        return [r for r, level in self.tried if r.finished and level == "search"]


def wanting(how, **limits):
    plain = study(**limits)
    return replace(plain, planner=replace(plain.planner, **{how: True}))


@pytest.mark.parametrize("how", ["refine", "polish"])
def test_the_best_is_finished_once_and_wins(how):
    run = Polishing(wanting(how, size=2_000_000), World(0)).to_its_end()
    (one,) = run.polished()
    plain = min(
        (
            r
            for r, level in run.tried
            if level == "search" and r.complete and not r.finished and run.size(r) <= 2_000_000
        ),
        key=lambda r: run.numbers[r, "search"]["kld_mean"].value,
    )
    assert one == Recipe(**{**plain.__dict__, how: True})
    assert [p.level for p in run.rounds[-1]] == ["search", "search"], (
        "the stock presets that guard the result come last"
    )


@pytest.mark.parametrize(("steps", "count"), [(None, 0), (0, 1), (20, 1)])
def test_a_model_too_large_to_learn_is_refined_on_request(steps, count):
    asked = wanting("refine", size=2_000_000)
    run = Polishing(replace(asked, probe=replace(asked.probe, refine_steps=steps)), World(0))
    run.shape = replace(run.shape, parameters=8 * 10**9)
    assert len(run.to_its_end().polished()) == count


@pytest.mark.parametrize(
    ("how", "steps", "foreseen"),
    [("refine", 0, REFINED), ("refine", 300, LEARNED), ("polish", 0, POLISHED)],
)
@pytest.mark.parametrize("left", [0.4, 1.0])
def test_a_smaller_mix_is_finished_first_where_bytes_count(left, how, steps, foreseen):
    asked = wanting(how, optimise="size_bytes", kld=0.01)
    asked = replace(asked, probe=replace(asked.probe, refine_steps=steps))
    run = Polishing(asked, World(0))
    run.left = left
    run.to_its_end()
    first, *others = run.polished()
    plain = [
        r
        for r, level in run.tried
        if level == "search"
        and r.complete
        and not r.finished
        and run.numbers[r, "search"]["kld_mean"].value <= 0.01
    ]
    best = min(plain, key=run.size)
    assert run.size(first) < 0.997 * run.size(best)
    assert (run.numbers[first, "search"]["kld_mean"].value <= 0.01) == (left < foreseen)
    assert others == ([] if left < foreseen else [Recipe(**{**best.__dict__, how: True})])


def test_nothing_is_polished_where_it_is_turned_off():
    assert Polishing(study(size=2_000_000), World(0)).to_its_end().polished() == []
