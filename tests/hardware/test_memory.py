"""Memory over load, prefill and decode, and under a limit, on a model of some 60 MB."""

import json

import pytest
from configs import LLAMA, write

from sintra.core.errors import Infeasible
from sintra.core.stage import Context
from sintra.hardware.estimate.architecture import architecture_of, shape_of_preset
from sintra.hardware.estimate.estimate import RUNTIME_BYTES, compute_bytes, kv_bytes
from sintra.hardware.memory_limit import MemoryLimit, memory_limit
from sintra.probes import memory
from sintra.probes.measurements import parse_measurements

MIB = 2**20
BIG = LLAMA | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "vocab_size": 1024,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Llama of 66 MB in 16 bits, with the tokenizer that llama.cpp needs to load one."""
    folder = tmp_path_factory.mktemp("big")
    write(folder / "model.gguf", BIG, tokens=True)
    return folder


def probe(tmp_path, model, **params):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    memory.run(Context({"context": 256} | params, {"gguf": model}, out, {}, tmp_path / "keep", 1))
    found = {
        m.metric: m for m in parse_measurements(json.loads((out / "measurements.json").read_text()))
    }
    return found, json.loads((out / "timeline.json").read_text())


def test_a_timeline_with_mmap_off_and_on(tmp_path, model):
    found, timeline = probe(tmp_path, model)
    weights = shape_of_preset(architecture_of(BIG), "F16").weight_bytes
    before, peak = timeline["no_mmap"][0]["rss"], found["ram_peak_bytes"].value
    expected = (
        weights
        + kv_bytes(shape_of_preset(architecture_of(BIG), "F16"), 256)
        + compute_bytes(shape_of_preset(architecture_of(BIG), "F16"), 256)
    )
    assert expected * 0.9 < peak - before < expected + RUNTIME_BYTES
    for lines in (timeline["no_mmap"], timeline["mmap"]):
        phases = [line["phase"] for line in lines]
        assert sorted(set(phases), key=phases.index) == [
            "start",
            "load",
            "prefill",
            "decode",
            "end",
        ]
        assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert found["ram_load_bytes"].value <= found["ram_decode_bytes"].value <= peak


@pytest.mark.parametrize("kind", ["cgroup", "rlimit"])
def test_out_of_memory_is_caught_with_the_last_reading(tmp_path, model, kind, monkeypatch):
    if kind == "rlimit":
        monkeypatch.setattr("sintra.hardware.memory_limit._make_group", lambda limit, root: None)
    else:
        with memory_limit(40 * MIB) as around:
            if around.kind != kind:
                pytest.skip("no memory group can be made here")
    with pytest.raises(
        Infeasible,
        match=rf"more than 40 MiB are needed \({kind}\): in load, the last reading was \d+ MiB",
    ) as caught:
        probe(tmp_path, model, limit=40 * MIB)
    assert caught.value.kind == "out_of_memory"
    found, _ = probe(tmp_path, model, limit=400 * MIB)
    assert f"under a {kind} of 400 MiB" in found["ram_peak_bytes"].protocol


def test_the_limit_leaves_nothing_behind():
    with memory_limit(64 * MIB) as around:
        folder = around.folder
        assert folder is None or folder.is_dir()
    assert folder is None or not folder.exists()
    assert not MemoryLimit("rlimit", 1).was_reached()


def test_a_file_that_cannot_be_loaded_is_no_want_of_memory(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(Infeasible) as caught:
        probe(tmp_path, tmp_path)
    assert caught.value.kind == "unsupported"
