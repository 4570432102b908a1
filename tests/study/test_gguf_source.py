"""A GGUF as the model of a study: as it is in 16 bits, decoded where the user says so."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file
from stage_lab import Lab

from sintra.core.errors import UserError
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.original import read_quantized_type
from sintra.formats.runtime import quantizer
from sintra.planning.bounds import quantized_shape
from sintra.stages import adopt, curvature
from sintra.study.workspace import open_workspace

QUICK = ("hardware=jetson_nano", "probe=quick", "planner=ladder", "planner.types=[Q8_0]")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


@pytest.fixture(scope="module")
def whole(lab):
    """The tiny model's 16-bit GGUF, under a user's name."""
    path = lab.root / "my-model.F16.gguf"
    shutil.copy(lab.gguf / "model.gguf", path)
    return path


@pytest.fixture(scope="module")
def small(lab, whole):
    path = lab.root / "my-model.Q8_0.gguf"
    quantizer.quantize(whole, path, 1, kind="Q8_0")
    return path


class Unpack:
    run = staticmethod(adopt.unpack)


def test_what_transformers_reads_is_the_checkpoint(lab):
    """Norms, rope's order of rows and tied matrices included."""
    out = lab.run(Unpack, {}, gguf=lab.gguf)
    original, back = (load_file(f / "model.safetensors") for f in (lab.tiny, out))
    assert original.keys() <= back.keys() | {"lm_head.weight"}
    for name, tensor in original.items():
        if name in back:
            assert np.allclose(
                tensor.astype(np.float32), back[name].astype(np.float32), atol=1e-3
            ), name
    text, params = lab.root / "text", {"tokens": 512, "context": 128, "random": 0.0}
    one, two = (
        lab.run(curvature, params, model=model, gguf=lab.gguf, text=text)
        for model in (lab.tiny, out)
    )
    facts = [json.loads((f / "curvature.json").read_text()) for f in (one, two)]
    assert facts[0]["tensors"] == facts[1]["tensors"]
    assert facts[1]["unmapped"] == facts[0]["unmapped"]
    assert np.allclose(np.load(one / "000.npy"), np.load(two / "000.npy"), rtol=1e-2, atol=1e-4)


def test_a_study_of_a_gguf(project, whole):
    done = project.doit("optimize", f"model={whole}", *QUICK)
    assert done.returncode == 0, done.stderr
    built = project.built(done)
    assert "adopt:my-model.F16" in built
    assert not [step for step in built if step.startswith(("convert", "toolchain"))]
    result = project.result()
    assert "decoded" not in result
    manifest = json.loads((project.root / "outputs" / "latest" / "manifest.json").read_text())
    assert manifest["source"]["kind"] == "gguf"
    assert result["winner"]["measurements"]
    again = project.doit("optimize", f"model={whole}", *QUICK)
    assert project.built(again) == []


def test_a_quantized_one_is_decoded_where_the_user_says_so(project, small):
    refused = project.doit("optimize", f"model={small}", *QUICK)
    assert refused.returncode == 2
    assert "quantized already (mostly Q8_0)" in refused.stderr
    assert "model.requantize=true" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    done = project.doit("optimize", f"model={small}", *QUICK, "model.requantize=true")
    assert done.returncode == 0, done.stderr
    assert "the source, which was Q8_0 already" in " ".join(done.stdout.split())
    assert project.result()["decoded"] == "Q8_0"
    page = (project.root / "outputs" / "latest" / "report.html").read_text()
    assert "the source, which was Q8_0 already" in page


def test_decoded_weights_are_those_of_the_file(lab, small):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    folder = lab.root / "user"
    folder.mkdir()
    shutil.copy(small, folder / "model.gguf")
    out = lab.run(adopt, {}, file=folder)
    theirs = {t.name: t for t in GGUFReader(small).tensors}
    for tensor in GGUFReader(out / "model.gguf").tensors:
        expected = dequantize(theirs[tensor.name].data, theirs[tensor.name].tensor_type)
        assert np.array_equal(
            dequantize(tensor.data, tensor.tensor_type), expected.astype(np.float16)
        ) or np.array_equal(tensor.data, expected)
    assert json.loads((out / "layout.json").read_text())["decoded"] == "Q8_0"


def test_expected_sizes_are_those_of_the_folder(whole, tiny, tmp_path):
    raw = [f"store.path={tmp_path}"]
    one, two = (open_workspace(ROOT, [*raw, f"model={m}"]).graph().source for m in (whole, tiny))
    sizes = [quantized_shape(pin, 4.5, 0) for pin in (one, two)]
    for name in ("weight_bytes", "layers", "width", "heads", "kv_heads", "head_dim", "vocabulary"):
        assert getattr(sizes[0], name) == getattr(sizes[1], name), name


def test_other_formats_need_the_folder(project, whole):
    done = project.doit("optimize", f"model={whole}", "formats=[gguf,gptq]")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs the model's folder" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04" + b"x" * 100, "doesn't begin with GGUF"),
        (b"GGUF", "it has 4 bytes"),
        (b"GGUF\x03\0\0\0" + b"\0" * 16, "not a sound GGUF"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, says):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_quantized_type(path)
    assert "\n" not in str(caught.value)


def renamed(source, target, name):
    """The same file as another architecture of the same tensors."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader, writer = GGUFReader(source), GGUFWriter(target, name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        new = f"{name}.{key.removeprefix('llama.')}" if key.startswith("llama.") else key
        writer.add_key_value(new, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_an_architecture_that_transformers_cannot_read_has_stock_presets(project, whole, tmp_path):
    """llama.cpp knows more architectures than transformers reads from a GGUF: XVERSE has Llama's
    tensors.
    """
    odd = renamed(whole, tmp_path / "odd.gguf", "xverse")
    assert read_layout(odd)["architecture"] == "xverse"
    done = project.doit("optimize", f"model={odd}", *QUICK, "max_rounds=3", "goal.max_kld=1e-9")
    assert "transformers can't read a xverse from a GGUF" in done.stdout + done.stderr
    rows = project.result()["candidates"]
    assert any(row["recipe"]["rounding"] == "nearest" and row["measurements"] for row in rows)
    assert any("xverse" in str(row.get("failure")) for row in rows)
