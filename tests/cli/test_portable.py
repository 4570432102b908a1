"""ONNX and TFLite: the original, exported, run by their own runtimes and compared with PyTorch."""

import importlib.util
import json
import os

import numpy as np
import pytest

from sintra.core.errors import UserError
from sintra.integrations.exports import onnx, tflite
from sintra.integrations.exports.agreement import compare_logits, load_logits_module, torch_logits
from sintra.integrations.exports.handover import open_delivered
from sintra.store.store import Store

HAS_ONNX = all(importlib.util.find_spec(n) for n in onnx.PACKAGES)


@pytest.fixture(scope="module")
def store(finished):
    return Store(finished.root / "cache")


@pytest.fixture(scope="module")
def folder(finished):
    return (finished.root / "outputs" / "latest").resolve()


def test_compare_logits():
    one = np.array([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]], dtype=np.float32)
    assert compare_logits(one, one) == {
        "max_abs": 0,
        "mean_abs": 0,
        "kld_mean": 0,
        "same_top": 1,
        "tokens": 2,
    }
    moved = compare_logits(one, one + 5)
    assert moved["max_abs"] == 5
    assert moved["kld_mean"] == pytest.approx(0, abs=1e-6), "a constant changes no prediction"
    other = one[..., ::-1].copy()
    p = np.exp(one[0, 0]) / np.exp(one[0, 0]).sum()
    q = np.exp(one[0, 1]) / np.exp(one[0, 1]).sum()
    kld = ((p * np.log(p / p[::-1])).sum() + (q * np.log(q / q[::-1])).sum()) / 2
    assert compare_logits(one, other)["kld_mean"] == pytest.approx(kld, rel=1e-5)


@pytest.mark.skipif(not HAS_ONNX, reason="needs sintra[onnx]")
def test_onnx_is_pytorch_at_every_batch_and_length(folder, store):
    onnx.export(folder, store)
    out = folder / "onnx"
    said = json.loads((out / "comparison.json").read_text())
    assert said["max_abs"] < 1e-3
    assert said["kld_mean"] < 1e-6
    assert said["tokens"] == 4 * 128
    assert f"{said['max_abs']:.2g}" in (out / "README.md").read_text()
    assert {"config.json", "tokenizer.model"} <= {p.name for p in out.iterdir()}
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(out / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    with open_delivered(folder, store, "the test").original_model() as source:
        net = load_logits_module(source)
    ids = np.random.default_rng(0).integers(3, 2048, (3, 17))
    theirs = session.run(["logits"], {"input_ids": ids})[0]
    assert np.abs(theirs - torch_logits(net, ids)).max() < 1e-3

    whole = (out / "model.onnx").stat().st_size
    onnx.export(folder, store, "int8")
    packed = json.loads((out / "comparison.json").read_text())
    assert (out / "model.onnx").stat().st_size < whole / 2
    assert 1e-6 < packed["kld_mean"] < 0.2
    onnx.export(folder, store, "int4")
    assert json.loads((out / "comparison.json").read_text())["kld_mean"] > packed["kld_mean"]


def test_mistakes(folder, store, monkeypatch):
    with pytest.raises(UserError, match=r"weights=int3: did you mean 'int(4|8)'"):
        onnx.export(folder, store, "int3")
    with pytest.raises(UserError, match="weights=fp16"):
        tflite.export(folder, store, "fp16")
    with pytest.raises(UserError, match="not a number of tokens up to the 128"):
        tflite.export(folder, store, length="129")
    monkeypatch.setattr(onnx, "PACKAGES", ("not_there",))
    with pytest.raises(UserError, match=r"pip install -c constraints.txt 'sintra\[onnx\]'"):
        onnx.export(folder, store)


@pytest.mark.skipif(
    not os.environ.get("SINTRA_TEST_TFLITE"),
    reason="SINTRA_TEST_TFLITE=1: installs 800 MB and takes minutes",
)
def test_tflite_is_pytorch(folder, store):
    tflite.export(folder, store, length="32")
    said = json.loads((folder / "tflite" / "comparison.json").read_text())
    assert said["max_abs"] < 1e-3
    assert said["tokens"] == 4 * 32
    whole = (folder / "tflite" / "model.tflite").stat().st_size
    tflite.export(folder, store, "int8", "32")
    assert (folder / "tflite" / "model.tflite").stat().st_size < whole / 2
    assert json.loads((folder / "tflite" / "comparison.json").read_text())["kld_mean"] < 0.2
