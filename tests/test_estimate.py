"""The formulas against published numbers."""

import pytest
from conftest import ROOT

from sintra import config
from sintra.hardware.estimate import Shape, compute_bytes, estimate, kv_bytes
from sintra.study import hardware_of

GIB, MIB = 2**30, 2**20
LLAMA3_8B = Shape(int(4.58 * GIB), int(128256 * 4096 * 0.5625), False, 8_030_000_000, 32, 4096, 32, 8, 128, 128256)


def test_memory_as_llama_cpp_logs_it():
    assert kv_bytes(LLAMA3_8B, 512) == 64 * MIB
    assert compute_bytes(LLAMA3_8B, 512) / MIB == pytest.approx(258.5, abs=0.01)


@pytest.mark.parametrize(("hardware", "shape", "published"), [
    ("raspberry_pi_5", LLAMA3_8B, 2.05), ("intel_n100", LLAMA3_8B, 3.01), ("laptop", LLAMA3_8B, 6.86),
])  # fmt: skip
def test_decode_interval_holds_the_published_speed(hardware, shape, published):
    device = hardware_of(config.compose(ROOT, [f"hardware={hardware}"])["hardware"])
    found = next(m for m in estimate(shape, device, 512) if m.metric == "device_tg_tps")
    assert found.low < published < found.high
    assert found.how == "estimated"


def test_more_context_costs_memory_and_speed():
    device = hardware_of(config.compose(ROOT, ["hardware=jetson_nano"])["hardware"])
    short, long = ({m.metric: m.value for m in estimate(LLAMA3_8B, device, n)} for n in (512, 4096))
    assert long["device_ram_bytes"] - short["device_ram_bytes"] >= kv_bytes(LLAMA3_8B, 4096) - kv_bytes(LLAMA3_8B, 512)
    assert long["device_tg_tps"] < short["device_tg_tps"]


def test_no_prefill_is_invented_where_none_is_known():
    device = hardware_of(config.compose(ROOT, ["hardware=jetson_nano"])["hardware"])
    assert "device_pp_tps" not in {m.metric for m in estimate(LLAMA3_8B, device, 512)}
