"""`doit explain`: any GGUF in words, and its damage beside stock presets."""

import json
import shutil
from dataclasses import replace

import gguf
import numpy as np
import pytest
from conftest import QUICK, copy_of_study
from stage_lab import Lab

from sintra.cli.commands import gguf_file
from sintra.core.errors import UserError
from sintra.formats.gguf.description import read_description
from sintra.results import file_comparison
from sintra.results.file_comparison import MeasuredFile, beaten_by, presets_around


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


@pytest.fixture(scope="module")
def mixed(lab):
    """A file of three types, by a recipe."""
    tensors = [(r"blk\.1\.ffn_down", "Q8_0"), ("attn_v", "Q6_K"), (".*", "Q4_K")]
    return lab.quantize("Q4_K_M", tensors) / "model.gguf"


def odd_file(path, name="odd\x1b[2J\nname"):
    """A GGUF that is no language model, with a name that a terminal would obey."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.name", name)
    writer.add_array("clip.some", [1, 2, 3])
    writer.add_float32("clip.nan", float("nan"))
    writer.add_tensor("v.patch.weight", np.ones((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_types_by_kind_and_by_block(mixed):
    file = read_description(mixed)
    kinds = file.types_by_kind()
    assert kinds["ffn_down"] == {"Q4_K": [0], "Q8_0": [1]}
    assert kinds["attn_v"] == {"Q6_K": [0, 1]}
    assert file.types_by_block() == {
        0: {"Q4_K": 6, "Q6_K": 1},
        1: {"Q4_K": 5, "Q6_K": 1, "Q8_0": 1},
    }
    assert file.declared == "Q4_K_M"
    assert file.bytes == mixed.stat().st_size
    assert 4.5 < file.bits < 6
    text = "\n".join(gguf_file.lines_of(file))
    assert "ffn_down         Q4_K 0; Q8_0 1" in text
    assert "taken apart into turns; an answer ends at </s>" in " ".join(text.split())
    assert "2048 tokens, bos <s>, eos </s>" in text


def test_what_is_no_language_model_is_explained_and_escaped(tmp_path):
    file = read_description(odd_file(tmp_path / "odd.gguf"))
    text = "\n".join(gguf_file.lines_of(file))
    assert "\x1b" not in text
    assert "odd?[2J name" in text
    assert "clip.some" in text
    assert "3 numbers" in text
    json.dumps(gguf_file.as_json(file), allow_nan=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a GGUF"),
        (b"x" * 100, "doesn't begin with GGUF"),
        (b"GGUF" + b"\xff" * 60, "version"),
    ],
)
def test_what_is_no_gguf_is_refused_in_a_line(tmp_path, content, says):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        gguf_file.explain_files(tmp_path, [], "text", ["x.gguf"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "files", "says"),
    [
        ([], [], "name a GGUF"),
        ([], ["no.gguf"], "there is no file"),
        (["probe=quick"], ["x.gguf"], "without model="),
    ],
)
def test_a_mistake_is_a_line(tmp_path, overrides, files, says):
    with pytest.raises(UserError, match=says):
        gguf_file.explain_files(tmp_path, overrides, "text", files)


def test_several_files_are_one_table(mixed, tmp_path, capsys):
    odd_file(tmp_path / "odd.gguf")
    gguf_file.explain_files(tmp_path, [], "text", [str(mixed), "odd.gguf"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "odd.gguf", "model.gguf"]
    assert max(map(len, lines)) <= 80


def test_ranges():
    assert gguf_file.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert gguf_file.ranges([]) == ""


def test_presets_next_to_a_size():
    presets = {"Q8_0": 80, "Q4_K_M": 45, "Q2_K": 30}
    assert presets_around([50], presets) == ["Q4_K_M", "Q8_0"]
    assert presets_around([10, 99], presets) == ["Q2_K", "Q8_0"]


def row(name, size, windows):
    mean = sum(windows) / len(windows)
    return MeasuredFile(name, size, mean, 0.1, 0.9, 0.01, tuple(windows), False)


def test_better_is_no_larger_and_nearer_beyond_the_paired_error():
    """Windows that are hard for all say nothing of the difference between two files."""
    hard = np.array([0.1, 0.9, 0.2, 0.7] * 4)
    near, far = row("near", 9, hard), row("far", 10, hard + 0.01)
    assert beaten_by(far, [near, far]) is near
    assert beaten_by(near, [near, far]) is None
    assert beaten_by(row("small", 8, hard + 0.01), [near, far]) is None
    noise = row("noise", 10, hard + np.array([0.1, -0.1, 0.1, -0.09] * 4))
    assert beaten_by(noise, [near, noise]) is None


def test_another_model_is_refused(lab, mixed):
    layout = json.loads((lab.gguf / "layout.json").read_text())
    file = read_description(mixed)
    file_comparison.refuse_other_model(file, layout, "tiny")
    wide = replace(file, metadata=file.metadata | {"llama.embedding_length": 512})
    with pytest.raises(UserError, match="512 wide, tiny 256: not the same model"):
        file_comparison.refuse_other_model(wide, layout, "tiny")
    words = replace(file, tokenizer=replace(file.tokenizer, tokens=7))
    with pytest.raises(UserError, match="has 7 tokens, tiny 2048"):
        file_comparison.refuse_other_model(words, layout, "tiny")
    with pytest.raises(UserError, match="is a gemma, tiny a llama"):
        file_comparison.refuse_other_model(replace(file, architecture="gemma"), layout, "tiny")


def test_the_winner_of_a_study_beside_presets(tmp_path_factory, toolchain, tiny):
    """The baseline and the presets that the study measured aren't measured again."""
    args = ("hardware=jetson_nano", f"model={tiny}", *QUICK)
    project = copy_of_study(tmp_path_factory, toolchain, "studied", *args)
    shutil.copy(project.root / "outputs/latest/model.gguf", project.root / "theirs.gguf")
    done = project.doit("explain", "--format", "json", "theirs.gguf", *args)
    assert done.returncode == 0, done.stderr
    built = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("build ")]
    assert {"fetch", "quality"} <= {step.partition(":")[0] for step in built}
    assert not [step for step in built if step.startswith(("baseline", "convert"))]
    measured = {r["name"]: r for r in json.loads(done.stdout)["measured"]}
    assert len(measured) > 1
    theirs = measured["theirs.gguf"]
    [winner] = [
        m["value"] for m in project.result()["winner"]["measurements"] if m["metric"] == "kld_mean"
    ]
    assert theirs["kld"] == pytest.approx(winner)
    assert theirs["kld_error"] > 0
    again = project.doit("explain", "--format", "json", "theirs.gguf", *args)
    assert "build " not in again.stderr
    assert json.loads(again.stdout) == json.loads(done.stdout)
