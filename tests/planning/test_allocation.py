"""Mixes: their sizes and files to the byte, the allocation against brute force, the model of the
damage on known worlds.
"""

import itertools
import json

import numpy as np
import pytest
from conftest import make_llama
from stage_lab import Lab
from worlds import INNER, TYPES, World, matrices

from sintra.core.recipe import Recipe
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import (
    Matrix,
    MixSizes,
    matrix_bytes,
    mix_patterns,
    resolve_types,
    written_type,
)
from sintra.formats.runtime import quantizer
from sintra.planning.solver.allocate import (
    ChoiceTable,
    far_types,
    solve_allocation,
    solve_exactly,
    solve_greedily,
)
from sintra.planning.solver.groups import depth_bins, group_tensors
from sintra.planning.solver.surrogate import fit_surrogate
from sintra.stages import assemble, curvature, distortion


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("mixes"), tiny, toolchain)


@pytest.fixture(scope="module")
def measured(lab):
    given = {"model": lab.tiny, "gguf": lab.gguf, "text": lab.root / "text"}
    return lab.run(curvature, {"tokens": 1024, "context": 128, "random": 0.2}, **given)


def random_mix(names, types, seed):
    rng = np.random.default_rng(seed)
    return {n: str(rng.choice(types)) for n in names}


def names_of(layout):
    return [name for name, _, _, shape in layout["tensors"] if len(shape) > 1]


@pytest.mark.parametrize("hidden", [256, 64, 96])
def test_sizes_are_foreseen_to_the_byte(tmp_path, toolchain, hidden):
    lab = Lab(tmp_path, make_llama(tmp_path / "model", hidden=hidden), toolchain)
    source = lab.gguf / "model.gguf"

    def file(label, pairs):
        path = tmp_path / f"{label}.gguf"
        quantizer.quantize(source, path, 1, kind="Q8_0", tensors=list(pairs))
        return read_layout(path), path.stat().st_size

    sizes = MixSizes.of(*file("uniform", [(".*", "Q8_0")]))
    for seed in range(4):
        mix = random_mix(sizes.by_name, [*TYPES, "Q4_0", "Q5_1", "IQ4_NL"], seed)
        layout, size = file(str(seed), mix_patterns(mix))
        assert size == sizes.total(mix)
        types = {t[0]: t[1] for t in layout["tensors"]}
        assert {m.name: types[m.name] for m in sizes.matrices} == {
            m.name: written_type(mix[m.name], m.columns) for m in sizes.matrices
        }


def test_patterns_name_every_tensor_once():
    names = [f"blk.{b}.{k}.weight" for b in range(12) for k in INNER] + [
        "token_embd.weight",
        "output.weight",
    ]
    for seed in range(3):
        mix = random_mix(names, TYPES, seed)
        pairs = mix_patterns(mix)
        assert resolve_types(pairs, names) == mix
        assert pairs[-1][0] == ".*"
    assert mix_patterns(dict.fromkeys(names, "Q4_K")) == ((".*", "Q4_K"),)


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_a_mix_from_cached_tensors_is_the_direct_file(lab, measured, tmp_path, rounding):
    types = ("Q2_K", "Q4_K", "Q8_0")
    mix = random_mix(names_of(read_layout(lab.gguf / "model.gguf")), types, 5)
    recipe = Recipe("Q4_K_M", True, (), mix_patterns(mix), rounding)
    extra = {"importance": measured} | (
        {"curvature": measured} if rounding == "compensated" else {}
    )

    def direct(kind, pairs):
        return lab.quantize(kind, list(pairs), **extra)

    parts = {p.tensors[0][1]: direct(p.type, p.tensors) for p in recipe.uniform_parts()}
    assert set(parts) == set(types)
    made = lab.run(assemble, {"type": recipe.type, "tensors": recipe.tensors}, **parts)
    whole = direct(recipe.type, recipe.tensors)
    assert (made / "model.gguf").read_bytes() == (whole / "model.gguf").read_bytes()
    a, b = (json.loads((f / "layout.json").read_text()) for f in (made, whole))
    assert a["tensors"] == b["tensors"]
    assert a.get("rounding", {}).get("compensated") == b.get("rounding", {}).get("compensated")


def test_distortion_is_the_error_of_the_layers_output(lab, measured):
    import gguf

    plain, ours = lab.quantize("Q3_K_S"), lab.quantize("Q3_K_S", curvature=measured)
    found = {}
    for label, folder in (("plain", plain), ("ours", ours)):
        out = lab.run(distortion, {"dropped": []}, gguf=folder, source=lab.gguf, curvature=measured)
        found[label] = json.loads((out / "distortion.json").read_text())
    name = "blk.1.ffn_down.weight"
    of = json.loads((measured / "curvature.json").read_text())["tensors"]
    h = np.load(measured / f"{of[name]:03}.npy").astype(np.float64)
    w, q = (
        gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)
        for f in (lab.gguf, ours)
        for t in gguf.GGUFReader(f / "model.gguf").tensors
        if t.name == name
    )
    e = w - q
    assert found["ours"][name]["output"] == pytest.approx(
        np.trace(e @ h @ e.T) / np.trace(w @ h @ w.T), rel=1e-3
    )
    assert found["ours"][name]["weights"] == pytest.approx((e**2).sum() / (w**2).sum(), rel=1e-3)
    better = [
        n
        for n in found["ours"]
        if n in of and found["ours"][n]["output"] < found["plain"][n]["output"]
    ]
    assert len(better) == len(of), "compensated rounding lowers every layer's error"
    assert found["ours"][name]["weights"] > found["plain"][name]["weights"], (
        "and pays with the weights' own"
    )


def table(seed, rows=6, columns=4):
    rng = np.random.default_rng(seed)
    size = np.sort(rng.integers(10, 100, (rows, columns)).astype(float), 1)
    loss = np.sort(rng.exponential(1, (rows, columns)), 1)[:, ::-1] * rng.exponential(1, (rows, 1))
    allowed = rng.random((rows, columns)) < 0.9
    allowed[:, -1] = True
    names, types = tuple(f"t{i}" for i in range(rows)), tuple(f"q{i}" for i in range(columns))
    return ChoiceTable(
        names, types, loss.copy(), size, size * rng.uniform(1, 1.2, size.shape), allowed
    )


def every(t):
    for choice in itertools.product(*(np.flatnonzero(row) for row in t.allowed)):
        yield list(choice)


@pytest.mark.parametrize("seed", range(8))
def test_the_allocation_is_the_best_there_is(seed):
    t = table(seed)
    limit = float(np.median(t.size.sum(0)))
    possible = [c for c in every(t) if t.total(t.size, c) <= limit]
    best = min((t.total(t.loss, c) for c in possible), default=None)
    quick, exact = (
        solve_greedily(t, t.loss, t.size, limit),
        solve_exactly(t, t.loss, [(t.size, limit)]),
    )
    assert exact is not None
    assert t.total(t.loss, exact) == pytest.approx(best, rel=2e-3)
    assert quick is not None
    assert t.total(t.size, quick) <= limit
    assert best <= t.total(t.loss, quick) * (1 + 1e-9)

    speed = t.total(t.time, exact) * 0.97
    both = solve_allocation(t, t.loss, [(t.size, limit), (t.time, speed)])
    wanted = [t.total(t.loss, c) for c in possible if t.total(t.time, c) <= speed]
    assert (both is None) == (not wanted)
    if both:
        assert t.total(t.loss, both) == pytest.approx(min(wanted), rel=2e-3)
    assert solve_allocation(t, t.loss, [(t.size, 1.0)]) is None, "what can't be is said so"


def test_many_matrices_leave_the_greedy_fill_near_the_optimum():
    t = table(1, rows=60, columns=6)
    limit = float(np.median(t.size.sum(0)))
    quick, exact = (
        solve_greedily(t, t.loss, t.size, limit),
        solve_exactly(t, t.loss, [(t.size, limit)]),
    )
    assert t.total(t.loss, exact) <= t.total(t.loss, quick) <= 1.03 * t.total(t.loss, exact)


def test_groups_fit_the_budget():
    found = matrices()
    assert depth_bins(found, 16) == 2
    assert depth_bins(found, 5) == 1
    assert depth_bins(found, 1000) == 8
    groups = group_tensors(found, 2)
    assert len(set(groups.values())) == 16
    assert (
        groups["blk.0.attn_q.weight"]
        == groups["blk.3.attn_q.weight"]
        != groups["blk.4.attn_q.weight"]
    )


def test_floors_bar_what_lies_far_below_its_class():
    found = matrices(4)
    mix = dict.fromkeys((m.name for m in found), "Q6_K")
    barred = far_types(found, mix, TYPES)
    assert barred["blk.0.ffn_up.weight"] == {"Q2_K", "Q3_K", "IQ4_XS", "Q4_K"}


@pytest.mark.parametrize(("bend", "floor"), [(-0.5, 2e-5), (0.8, 2e-5), (0.3, 4e-3)])
def test_the_model_foresees_and_knows_how_well(bend, floor):
    """A floor of 4e-3 nats is that of SmolLM2."""
    held = total = 0
    for seed in range(6):
        world = World(seed, bend, floor=floor)
        probes = [
            {n: "Q2_K" if own == g else "Q8_0" for n, own in world.space.groups.items()}
            for g in world.space.group_names
        ]
        seen = [world.seen(m) for m in [*map(world.uniform, ("Q2_K", "Q4_K", "Q8_0")), *probes]]
        model = fit_surrogate(world.space, seen)
        for other in range(20):
            mix = random_mix([m.name for m in world.matrices], TYPES, other)
            value, low, high = model.predict(mix)
            assert low < value < high
            assert 0.5 < value / world.kld(mix) < 2
            held += low <= world.seen(mix).value <= high
            total += 1
    assert held / total >= 0.8, f"{held} of {total} in the 90 % interval"


def test_loss_at_is_the_way_back():
    world = World(3)
    model = fit_surrogate(
        world.space, [world.seen(world.uniform(t)) for t in ("Q2_K", "Q4_K", "Q8_0")]
    )
    mix = world.uniform("Q3_K")
    weights = model.weights()
    u = sum(weights[n][t] for n, t in mix.items())
    assert model.loss_at(model.predict(mix)[0]) == pytest.approx(u, rel=1e-6)
    with pytest.raises(ValueError, match="nothing has been measured"):
        fit_surrogate(world.space, [])


def test_a_byte_count_by_hand():
    assert matrix_bytes(Matrix("x", 256, 3, "x", 0), "Q4_K") == 448, (
        "3 blocks of 144 bytes, up to a multiple of 32"
    )
    assert written_type("Q4_K", 96) == "Q5_0"
    assert written_type("Q2_K", 96) == "Q4_0"
    assert written_type("IQ3_S", 96) == "IQ4_NL"
    assert written_type("Q6_K", 40) == "F16"
