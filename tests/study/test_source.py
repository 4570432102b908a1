"""Model folders: what is refused, and in which words."""

import json
import shutil

import pytest

from sintra.core.errors import UserError
from sintra.formats.checkpoint.folder import check_folder, is_model_file
from sintra.study.pinning import Digests, pin_folder


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


def test_good(copy):
    names = {p.name for p in check_folder(copy).files}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    }


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights: expected \*.safetensors"):
        check_folder(copy)


def test_pickled_only(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights only"):
        check_folder(copy)


def test_truncated(copy):
    data = (copy / "model.safetensors").read_bytes()
    for cut in (4, 100, len(data) - 1):
        (copy / "model.safetensors").write_bytes(data[:cut])
        with pytest.raises(UserError, match="truncated"):
            check_folder(copy)


def test_missing_shard(copy):
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model-2.safetensors"}})
    )
    with pytest.raises(UserError, match=r"lacks model-2\.safetensors"):
        check_folder(copy)


def test_no_config(copy):
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        check_folder(copy)


def test_pin_is_the_content(copy, tmp_path):
    digests = Digests(tmp_path / "d.json")
    first = pin_folder(copy, digests)
    (copy / "README.md").write_text("not part of the model")
    (copy / "config.json").touch()
    assert pin_folder(copy, digests).digest == first.digest
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert pin_folder(copy, digests).digest != first.digest


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "model.pt", "modeling_evil.py", "README.md", "../config.json"),
        *("tokenizer.py", "tokenizer_evil.pyc", "tokenizer.pkl", "chat_template.py"),
        "adapter_config.json",
    ],
)
def test_not_wanted(name):
    assert not is_model_file(name)
