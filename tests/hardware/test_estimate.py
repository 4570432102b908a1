"""The formulas against published numbers."""

import math
from dataclasses import replace

import pytest
from configs import GIB, LLAMA3_8B, MIB
from conftest import ROOT

from sintra.config import compose
from sintra.config.study import hardware_of
from sintra.hardware import profiles
from sintra.hardware.estimate.estimate import (
    HOST_EFFICIENCY,
    HOST_SPREAD,
    UBATCH,
    Shape,
    compute_bytes,
    estimate_metrics,
    has_small_layers,
    kv_bytes,
    offload_layers,
)
from sintra.hardware.estimate.fit import fit_points, leave_one_out, score_predictions
from sintra.hardware.estimate.published import PUBLISHED, read_points
from sintra.hardware.estimate.small_layers import (
    LEAST_OVERHEAD_S,
    SMALLEST_LAYER,
    layer_overhead,
    overhead_range,
    prefill_range,
)


def test_memory_as_llama_cpp_logs_it():
    assert kv_bytes(LLAMA3_8B, 512) == 64 * MIB
    assert compute_bytes(LLAMA3_8B, 512) / MIB == pytest.approx(258.5, abs=0.01)
    assert compute_bytes(replace(LLAMA3_8B, inner=14336), 2048) / MIB == pytest.approx(
        258.5, abs=0.01
    )


@pytest.mark.parametrize(
    ("width", "inner", "context", "logged"),
    [
        (256, 768, 512, 7.0137),
        (1024, 4096, 512, 32.5137),
        (1024, 4096, 2048, 34.0137),
    ],
)
def test_compute_buffers_as_llama_cpp_logs_them(width, inner, context, logged):
    """Micro-batches of 512 tokens, a vocabulary of 2048, flash attention on a CPU."""
    small = replace(LLAMA3_8B, vocabulary=2048, width=width, inner=inner)
    assert compute_bytes(small, context) / MIB == pytest.approx(logged, abs=0.02)
    assert compute_bytes(replace(small, heads=width // 64), context, flash=False) >= compute_bytes(
        small, context
    )


@pytest.mark.parametrize(
    ("hardware", "shape", "published"),
    [
        ("raspberry_pi_5", LLAMA3_8B, 2.05),
        ("intel_n100", LLAMA3_8B, 3.01),
        ("laptop", LLAMA3_8B, 6.86),
    ],
)
def test_decode_interval_holds_the_published_speed(hardware, shape, published):
    device = hardware_of(compose.compose(ROOT, [f"hardware={hardware}"]).hardware)
    found = next(m for m in estimate_metrics(shape, device, 512) if m.metric == "device_tg_tps")
    assert found.low < published < found.high
    assert found.how == "estimated"


def test_codewords_cost_a_processor_more_and_a_measurement_counts_instead():
    size = LLAMA3_8B.weight_bytes
    words = replace(LLAMA3_8B, types=(("IQ3_S", size),), slow_bytes=0.08 * size, k_bytes=size)
    plain = replace(LLAMA3_8B, types=(("Q3_K", size),), k_bytes=size)
    board = hardware_of(compose.compose(ROOT, ["hardware=raspberry_pi_5"]).hardware)

    def speed(shape, device):
        found = estimate_metrics(shape, device, 512)
        return next(m for m in found if m.metric == "device_tg_tps")

    slow, fast = speed(words, board), speed(plain, board)
    assert 1.4 < fast.value / slow.value < 2
    assert slow.high / slow.low > fast.high / fast.low, "the cost is a guess"
    assert slow.high > fast.low, "beside a slow memory it may be nothing"
    known = replace(board, type_costs={"IQ3_S": 1.0, "Q3_K": 1.0})
    assert speed(words, known).value == pytest.approx(speed(plain, known).value)
    graphics = replace(board, backend="cuda")
    assert speed(plain, graphics).value < 1.1 * speed(words, graphics).value


def test_more_context_costs_memory_and_speed():
    device = hardware_of(compose.compose(ROOT, ["hardware=jetson_nano"]).hardware)
    short, long = (
        {m.metric: m.value for m in estimate_metrics(LLAMA3_8B, device, n)} for n in (512, 4096)
    )
    assert long["device_ram_bytes"] - short["device_ram_bytes"] >= kv_bytes(
        LLAMA3_8B, 4096
    ) - kv_bytes(LLAMA3_8B, 512)
    assert long["device_tg_tps"] == short["device_tg_tps"], "that of an answer of 512 tokens"
    assert long["device_tg_tps@d4096"] < short["device_tg_tps@d512"] < short["device_tg_tps"]


def test_no_prefill_is_invented_where_none_is_known():
    device = hardware_of(compose.compose(ROOT, ["hardware=jetson_nano"]).hardware)
    assert "device_pp_tps" not in {m.metric for m in estimate_metrics(LLAMA3_8B, device, 512)}


@pytest.fixture(scope="module")
def published():
    return read_points(PUBLISHED, profiles.read_bandwidths(ROOT))[0]


def test_leave_one_out_on_the_published_points(published):
    found = score_predictions(published, leave_one_out(published))
    assert len(published) == 38
    assert found["median_ape"] <= 0.08
    assert found["mean_ape"] <= 0.12
    assert 0.80 <= found["coverage90"] <= 0.97


def test_profiles_hold_what_the_fit_says(published):
    posterior = fit_points(published)
    pairs = {(p.profile, p.backend) for p in published}
    for name, profile in profiles.read_profiles(ROOT).items():
        if (name, profile["backend"]) in pairs:
            device = posterior.device(name, profile["backend"], profile["bandwidth_gbs"] * 1e9)
            assert profile["efficiency"] == pytest.approx(device.efficiency, rel=0.01), name
            assert profile["overhead_us_per_layer"] == pytest.approx(
                device.overhead_s * 1e6, rel=0.01
            ), name
            assert profile["efficiency_spread"] == pytest.approx(device.spread, abs=0.01), name
    host = posterior.device("nobody", "cpu", 51.2e9)
    assert host.efficiency == pytest.approx(HOST_EFFICIENCY, rel=0.01)
    assert host.spread == pytest.approx(HOST_SPREAD, abs=0.01)


def test_a_device_without_points_is_drawn_to_its_class_with_a_wide_interval(published):
    others = [p for p in published if p.profile != "raspberry_pi_5"]
    point = next(p for p in published if p.profile == "raspberry_pi_5")
    known, blind = fit_points(published), fit_points(others)
    width = [high / low for _, low, high in (known.predict(point), blind.predict(point))]
    assert width[1] > 2 * width[0]
    own, other = (
        blind.device("raspberry_pi_5", "cpu", point.bandwidth),
        blind.device("nobody", "cpu", point.bandwidth),
    )
    assert own == other


SMOLLM2 = Shape(  # SmolLM2-135M in Q4_K_M
    96_600_000, 30_000_000, True, 134_515_008, 30, 576, 9, 3, 64, 49152, inner=1536
)
FABLE = Shape(4_520_000, 700_000, True, 7_340_000, 8, 256, 4, 4, 64, 2048, inner=768)


def device(name):
    return hardware_of(profiles.profile_conf(profiles.read_profile(ROOT, name)))


def estimates(shape, name):
    return {m.metric: m for m in estimate_metrics(shape, device(name), 512)}


def test_small_layers_are_bounded_by_what_was_fitted(published):
    assert min(p.weights / p.layers for p in published) == pytest.approx(SMALLEST_LAYER, rel=0.01)
    posterior = fit_points(published)
    cards = {(p.profile, p.backend, p.bandwidth) for p in published if p.backend != "cpu"}
    least = min(posterior.device(*card).overhead_s for card in cards)
    assert least == pytest.approx(LEAST_OVERHEAD_S, rel=0.02)


def test_nothing_changes_for_layers_that_were_fitted_and_for_cpus():
    for weights in (SMALLEST_LAYER, 3e8):
        assert layer_overhead(566e-6, weights, "cuda") == 566e-6
        assert overhead_range(566e-6, weights, "cuda") == 0
        assert prefill_range(weights, "cuda") == 0
    assert layer_overhead(5e-6, 1e5, "cpu") == 5e-6
    assert prefill_range(1e5, "cpu") == 0
    assert layer_overhead(0.0, 1e5, "cuda") == 0
    assert overhead_range(0.0, 1e5, "cuda") == 0


@pytest.mark.parametrize("weights", [1e5, 7e5, 4.5e6, 2e7])
@pytest.mark.parametrize("fitted", [5e-6, 23e-6, 566e-6])
def test_the_interval_of_a_small_layer_reaches_to_the_fitted_overhead(weights, fitted):
    bounded = layer_overhead(fitted, weights, "metal")
    assert min(fitted, LEAST_OVERHEAD_S) <= bounded <= fitted
    assert bounded * math.exp(overhead_range(fitted, weights, "metal")) == pytest.approx(fitted)


def test_a_small_model_is_faster_on_a_jetson_than_on_a_pi():
    jetson, pi = estimates(SMOLLM2, "jetson_orin_nano"), estimates(SMOLLM2, "raspberry_pi_5")
    assert jetson["device_tg_tps"].value > pi["device_tg_tps"].value
    width = [m.high / m.low for m in (jetson["device_tg_tps"], pi["device_tg_tps"])]
    assert width[0] > 3 * width[1]  # not fitted, so less is known


def test_no_prompt_speed_of_a_toy_on_a_large_card():
    assert "device_pp_tps" not in estimates(FABLE, "rtx_4090")
    assert "device_pp_tps" in estimates(FABLE, "raspberry_pi_5")
    speed = estimates(SMOLLM2, "rtx_4090")["device_pp_tps"]
    assert speed.high / speed.low > 4
    card = device("rtx_4090")
    assert speed.value <= UBATCH / (SMOLLM2.layers * LEAST_OVERHEAD_S)
    assert has_small_layers(SMOLLM2, card)
    assert not has_small_layers(LLAMA3_8B, card)
    assert not has_small_layers(SMOLLM2, device("laptop"))


def test_a_bad_points_file_is_a_line(tmp_path):
    from sintra.core.errors import UserError

    path = tmp_path / "points.csv"
    path.write_text("profile,tg_tps\nx,1\n")
    with pytest.raises(UserError, match="no column backend"):
        read_points(path, {})
    path.write_text(PUBLISHED.read_text().replace("raspberry_pi_5,", "abacus,", 1))
    assert "abacus" in read_points(path, profiles.read_bandwidths(ROOT))[1][0]


def test_what_does_not_fit_a_card_goes_to_its_host():
    device = hardware_of(compose.compose(ROOT, ["hardware=rtx_3060"]).hardware)
    large = Shape(
        int(14.96 * GIB), 128256 * 4096 * 2, False, 8_030_000_000, 32, 4096, 32, 8, 128, 128256
    )
    whole, part = offload_layers(LLAMA3_8B, device, 512), offload_layers(large, device, 512)
    plain = next(
        m.value for m in estimate_metrics(LLAMA3_8B, device, 512) if m.metric == "device_tg_tps"
    )
    assert whole.layers == 32
    assert whole.tps == pytest.approx(plain)
    assert 0 < part.layers < 32
    assert part.device_bytes <= device.usable_bytes
    assert part.low < part.tps < part.high < whole.tps
    nowhere = hardware_of(
        compose.compose(ROOT, ["hardware=rtx_3060", "hardware.host_usable_gb=2"]).hardware
    )
    assert offload_layers(large, nowhere, 512) is None


def test_sliding_layers_keep_a_window_only():
    from dataclasses import replace

    short = replace(LLAMA3_8B, window=1024, windowed=16)
    assert kv_bytes(short, 512) == kv_bytes(LLAMA3_8B, 512)
    assert kv_bytes(short, 8192) == kv_bytes(LLAMA3_8B, 8192) / 2 + kv_bytes(LLAMA3_8B, 1536) / 2
