"""Speed with a filled cache: estimated by what attention reads and computes, and measured."""

import itertools
import json
from dataclasses import replace

import pytest
from configs import LLAMA, LLAMA3_8B, write

from sintra.config.options import HardwareConf, ProbeConf
from sintra.config.study import check_depth, hardware_of
from sintra.core.errors import UserError
from sintra.core.metrics import BY_NAME, at_depth, find_metric
from sintra.core.stage import Context
from sintra.hardware.estimate.attention import attention_flops, cache_read, cached_elements
from sintra.hardware.estimate.calibrate import MeasuredSpeed, refine_profile
from sintra.hardware.estimate.estimate import (
    decode_seconds,
    estimate_metrics,
    kv_bytes,
    weight_bytes_read,
    weights_read,
)
from sintra.hardware.estimate.prompt_speed import MeasuredPrompt, refine_prompts
from sintra.probes import speed
from sintra.probes.depth import reachable_depths
from sintra.results.pages.words import metric_label

CARD = HardwareConf(name="card", backend="cuda", bandwidth_gbs=500.0, efficiency=0.7, tflops=20.0)
CPU = HardwareConf(name="cpu", bandwidth_gbs=20.0, overhead_us_per_layer=50.0, tflops=0.1)


def rows(conf, **options):
    found = estimate_metrics(LLAMA3_8B, hardware_of(conf), 4096, **options)
    return {m.metric: m for m in found}


def test_a_card_reads_the_cache_like_weights():
    device = hardware_of(CARD)
    empty, full = (sum(decode_seconds(LLAMA3_8B, device, d, depth=d)) for d in (0, 4096))
    expected = kv_bytes(LLAMA3_8B, 4096) / (0.7 * 500e9)
    assert full - empty == pytest.approx(expected)


def test_a_cpu_computes_it_for_every_query_head():
    """Four query heads of Llama-3-8B share a cached one."""
    device = hardware_of(replace(CPU, attention=1.5))
    assert cache_read(LLAMA3_8B, device, 1000, "f16") == 1.5 * 4 * kv_bytes(LLAMA3_8B, 1000)
    assert cache_read(LLAMA3_8B, device, 1000, "q8_0") == 1.5 * 4 * kv_bytes(LLAMA3_8B, 1000)
    assert cache_read(LLAMA3_8B, hardware_of(CARD), 1000, "q8_0") == kv_bytes(
        LLAMA3_8B, 1000, "q8_0"
    )


def test_speed_with_a_full_cache_stands_beside_the_usual():
    found = rows(CPU)
    usual, full = found["device_tg_tps"], found["device_tg_tps@d4096"]
    assert full.value < usual.value
    assert full.low < full.value < full.high
    assert full.high / full.low > usual.high / usual.low, "one processor's attention was measured"
    seconds = 1 / found["device_pp_tps@d4096"].value - 1 / found["device_pp_tps"].value
    assert seconds == pytest.approx(attention_flops(LLAMA3_8B, 4096) / 0.1e12)


def test_a_limit_on_speed_is_judged_at_the_goals_depth():
    shallow, deep = rows(CPU)["device_tg_tps"], rows(CPU, depth=3000)["device_tg_tps"]
    assert deep.value < shallow.value
    assert "behind 3000 tokens" in deep.protocol
    from small_studies import study

    check_depth(replace(study(), context=4096, depth=3000))
    with pytest.raises(UserError, match=r"goal.depth=4096 leaves no room .* of 4096 tokens"):
        check_depth(replace(study(), context=4096, depth=4096))


def test_calibrating_finds_what_attention_costs():
    """Two depths of one device; the speed between them follows."""
    truth = replace(CPU, attention=0.8, efficiency=0.5)
    device, wobble = hardware_of(truth), itertools.cycle((1.02, 0.98))

    def tps(depth):
        return 1 / sum(decode_seconds(LLAMA3_8B, device, depth, depth=depth))

    measured = [
        MeasuredSpeed(
            weight_bytes_read(LLAMA3_8B),
            weights_read(LLAMA3_8B),
            LLAMA3_8B.layers,
            tps(depth) * next(wobble),
            cached=2 * cached_elements(LLAMA3_8B, depth),
            shared=4,
            deep=depth > 0,
        )
        for depth in (0, 8192, 8192, 0)
    ]
    refined = refine_profile(CPU, measured)
    assert refined.attention == pytest.approx(0.8, rel=0.1)
    between = 1 / sum(decode_seconds(LLAMA3_8B, hardware_of(refined), 2048, depth=2048))
    assert between == pytest.approx(tps(2048), rel=0.05)
    assert refine_profile(CPU, [m for m in measured if not m.deep]).attention == 0


def test_calibrating_finds_the_two_speeds_of_prompts():
    def prompt(depth, wobble=1.0):
        weights, attention = 2.0 * LLAMA3_8B.parameters, attention_flops(LLAMA3_8B, depth + 128)
        tps = wobble / (weights / 0.05e12 + attention / 0.02e12)
        return MeasuredPrompt(weights, attention, tps, depth > 0)

    refined = refine_prompts(CPU, [prompt(0), prompt(4096), prompt(0)])
    assert refined.tflops == pytest.approx(0.05, rel=0.01)
    assert refined.attention_tflops == pytest.approx(0.02, rel=0.01)
    alone = refine_prompts(CPU, [prompt(0)])
    assert (alone.attention_tflops, alone.tflops) == (None, pytest.approx(0.05, rel=0.05))
    assert refine_prompts(CPU, []) == CPU


def test_a_speed_at_a_depth_has_its_familys_row_and_words():
    assert at_depth("tg_tps", 4096) == "tg_tps@d4096"
    assert find_metric("tg_tps@d4096") is BY_NAME["tg_tps"]
    assert metric_label("tg_tps@d4096") == "generation here with 4096 tokens in the cache"


def test_only_what_is_filled_in_time_is_measured():
    assert reachable_depths([4096, 0, 512, 512], 100.0, None) == (512, 4096)
    assert reachable_depths([4096, 512], 100.0, 10.0) == (512,)


def test_the_probe_measures_behind_a_filled_cache(tmp_path):
    write(tmp_path / "model.gguf", LLAMA | {"vocab_size": 512}, tokens=True)
    params = {"prompt": 16, "generate": 4, "repeat": 1, "depth": [64, 600]}
    said = []
    for more in ({}, {"fill_s": 0.0}):
        out = tmp_path / f"out{len(more)}"
        out.mkdir()
        context = Context(params | more, {"gguf": tmp_path}, out, {}, tmp_path / "keep", 1)
        speed.run(context)
        said.append({m["metric"] for m in json.loads((out / "measurements.json").read_text())})
    usual = {"pp_tps", "tg_tps"}
    assert said == [usual | {f"{m}@d{d}" for m in usual for d in (64, 600)}, usual]


def test_the_default_renames_no_study():
    from sintra.config.study import probe_key

    assert "depth" not in probe_key(ProbeConf())
    assert probe_key(ProbeConf(depth=(8,)))["depth"] == (8,)
