"""The commands about devices, as a user calls them."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from sintra.cli.commands import devices
from sintra.core.errors import UserError

BASE = ["store.path=nowhere"]
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def doit(root, *args):
    return subprocess.run(
        [sys.executable, "-m", "doit", *args], cwd=root, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def folder(tmp_path):
    """A project without a cache, and a model of which only the config is there."""
    for name in ("dodo.py", "conf", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text(json.dumps(LLAMA3_8B))
    return tmp_path


def test_estimate_of_a_config_on_one_device(folder):
    done = doit(
        folder, "estimate", "--format", "json", "model=./big/config.json", "hardware=raspberry_pi_5"
    )
    assert done.returncode == 0, done.stderr
    rows = {r["type"]: r for r in json.loads(done.stdout)}
    speed = rows["Q4_K_M"]["device_tg_tps"]
    assert speed["low"] < 2.05 < speed["high"]  # published for the Raspberry Pi 5
    assert (rows["Q4_K_M"]["fits"], rows["F16"]["fits"]) == (True, False)
    assert {p.name for p in (folder / "cache").iterdir()} <= {"doit.db", "meta"}, (
        "nothing was built"
    )


def test_which_of_my_devices(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    devices.show(folder, ["model=./big", *BASE], True, "F16", "json")
    rows = json.loads(capsys.readouterr().out)
    assert {r["device"] for r in rows} == {
        p.stem for p in (ROOT / "conf" / "hardware").glob("*.yaml")
    }
    by_name = {r["device"]: r for r in rows}
    assert by_name["rtx_4090"]["fits"]
    assert not by_name["jetson_nano"]["fits"]
    devices.show(
        folder,
        ["model=./big", "hardware=rtx_3060", "hardware.host_usable_gb=30", *BASE],
        False,
        "",
        "text",
    )
    assert "of 32 layers on the card" in capsys.readouterr().out


def test_estimate_of_a_gguf(folder, capsys):
    from configs import LLAMA, write

    write(folder / "own.gguf", LLAMA)
    devices.show(folder, [f"model={folder / 'own.gguf'}", *BASE], False, "", "json")
    assert json.loads(capsys.readouterr().out)[0]["type"] == "own"


def test_mistakes_are_lines(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="F17 isn't known"):
        devices.show(folder, ["model=./big", *BASE], True, "F17", "text")
    done = doit(folder, "estimate", "model=./big", "hardware=pi")
    assert done.returncode == 2
    assert "no hardware is called 'pi'" in done.stderr
