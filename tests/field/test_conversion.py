"""Is the 16-bit GGUF the model? Folders as people have them, converted and compared."""

import json

import pytest
from field.folders import FABLE_MINI, copied, edited, saved, seeing, tensors
from stage_lab import Lab

from sintra.core.errors import Infeasible, UserError
from sintra.probes import conversion
from sintra.probes.measurements import MEASUREMENTS_FILE
from sintra.stages import convert, fetch
from sintra.study.pinning import Digests, pin_folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


def converted(lab, folder):
    """The GGUF's folder, made as a study makes it."""
    return lab.run(convert, {"type": "f16"}, model=folder, toolchain=lab.tools)


def compared(lab, folder, gguf):
    """The comparison's measurements by name."""
    out = lab.run(conversion, {"context": 128}, model=folder, gguf=gguf, text=lab.root / "text")
    return {m["metric"]: m for m in json.loads((out / MEASUREMENTS_FILE).read_text())}


def test_the_same_model(lab):
    found = compared(lab, FABLE_MINI, converted(lab, FABLE_MINI))
    assert set(found) == {"convert_kld_mean", "convert_same_top"}
    assert found["convert_kld_mean"]["value"] < 1e-4
    assert found["convert_kld_mean"]["n"] == 2 * 127


def test_a_sliding_window_that_llama_cpp_drops(lab, tmp_path):
    slides = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    folder = edited(copied(FABLE_MINI, tmp_path / "slides"), layer_types=None, **slides)
    with pytest.raises(UserError) as caught:
        compared(lab, folder, converted(lab, folder))
    line = str(caught.value)
    assert "llama.cpp doesn't carry a sliding window of 64 tokens" in line
    assert "model.check=false" in line
    assert len(line.splitlines()) == 1


def test_another_model():
    config = {"rope_scaling": {"type": "dynamic"}, "hidden_act": "relu2"}
    good, bad = conversion.Comparison(1e-6, 1.0, 256), conversion.Comparison(1.4, 0.3, 256)
    conversion.refuse_other_model(good, good, None, config)
    with pytest.raises(UserError) as caught:
        conversion.refuse_other_model(bad, None, None, config)
    line = str(caught.value)
    assert "1.4 nats" in line
    assert "rope scaling dynamic, activation relu2" in line


def test_a_tied_embedding_saved_twice_is_written_once(lab, tmp_path):
    once = converted(lab, FABLE_MINI)
    folder = copied(FABLE_MINI, tmp_path / "twice")
    found = tensors(folder)
    saved(folder, found | {"lm_head.weight": found["model.embed_tokens.weight"].clone()})
    twice = converted(lab, folder)
    assert (twice / "model.gguf").stat().st_size == (once / "model.gguf").stat().st_size
    assert json.loads((twice / "layout.json").read_text())["shape"]["tied"]
    assert compared(lab, folder, twice)["convert_kld_mean"]["value"] < 1e-4


def test_a_model_that_sees_is_compared_as_its_language_model(lab, tmp_path):
    folder = seeing(lab.tiny, tmp_path / "sees")
    assert compared(lab, folder, converted(lab, folder))["convert_kld_mean"]["value"] < 1e-4


def test_a_byte_order_mark_is_not_carried_into_the_store(lab, tmp_path):
    folder = copied(lab.tiny, tmp_path / "marked")
    config = folder / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    pin = pin_folder(folder, Digests(tmp_path / "digests.json"))
    out = tmp_path / "out"
    out.mkdir()
    params = {"kind": "folder", "digest": pin.digest}
    fetch.run(fetch.Context(params, {}, out, {"from": str(folder)}, tmp_path / "keep", 1))
    assert (out / "config.json").read_bytes() == (lab.tiny / "config.json").read_bytes()


def test_a_checkpoint_that_transformers_cannot_run(lab, tmp_path):
    folder = edited(copied(lab.tiny, tmp_path / "odd"), model_type="nothing_like_it")
    with pytest.raises(Infeasible, match="transformers can't run the checkpoint"):
        compared(lab, folder, lab.gguf)


def test_the_converter_s_warnings_are_kept():
    log = "INFO:x:fine\nWARNING:hf-to-gguf:Unknown RoPE type: default\nWARNING:a.b:no\x1b[1m\n"
    log += "WARNING:hf-to-gguf:Unknown RoPE type: dynamic\n" * 2
    assert convert.converter_warnings(log) == ["Unknown RoPE type: dynamic"]
